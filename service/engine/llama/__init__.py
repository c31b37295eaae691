"""llama.cpp behind one interface: model, context, samplers, devices. The only package that imports llama_cpp.

May import: kv, for the actions that a context carries out.
"""
