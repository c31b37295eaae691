"""The page alone: real Chromium against a scripted service, no model and no engine."""
