"""The embedded starter model, served unless RILL_MODEL names another (made by deploy/starter)."""

from pathlib import Path

MODEL: Path = Path(__file__).parent / "rill-starter-q8_0.gguf"
