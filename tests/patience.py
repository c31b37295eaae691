"""How long a test waits for what has to come. Nothing is timed by it: a wait ends as soon as the condition holds, so a
large limit costs a passing test nothing, and only a broken one waits so long."""

PATIENCE_S = 120.0  # an engine's load beside two busy processes was seen to take 28 s
