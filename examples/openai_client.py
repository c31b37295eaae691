"""Streams a chat with openai-python, and says what it used.

pip install openai
python examples/openai_client.py [http://127.0.0.1:8000 ["Tell me a story about a fox"]]
"""

import os
import sys

from openai import OpenAI

url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
prompt = sys.argv[2] if len(sys.argv) > 2 else "Tell me a story about a fox"

# A key is needed where Rill has RILL_API_KEYS, and the library always wants one.
client = OpenAI(base_url=f"{url}/v1", api_key=os.environ.get("RILL_API_KEY", "any"))
stream = client.chat.completions.create(
    model="any",
    messages=[{"role": "user", "content": prompt}],
    temperature=0,
    stream=True,
    stream_options={"include_usage": True},
)
usage = None
for chunk in stream:
    if chunk.choices:  # the last chunk has the usage and no choice
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    usage = chunk.usage or usage
print()
if usage:
    print(f"{usage.prompt_tokens} tokens read, {usage.completion_tokens} written")
