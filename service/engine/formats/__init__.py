"""How a model writes reasoning and tool calls: learned from its chat template, parsed from its answer, as a grammar.

Pure: a template is a function that is passed in. May import nothing of Rill.
"""
