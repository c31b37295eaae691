// Streams a chat with openai-node, and says what it used.
//
//   npm install openai                                     (in Rill's repository: npm ci --prefix examples)
//   node examples/openai_client.mjs [http://127.0.0.1:8000 ["Tell me a story about a fox"]]

import OpenAI from "openai";

const [url = "http://127.0.0.1:8000", prompt = "Tell me a story about a fox"] = process.argv.slice(2);

// A key is needed where Rill has RILL_API_KEYS, and the library always wants one.
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: process.env.RILL_API_KEY ?? "any" });
const stream = await client.chat.completions.create({
  model: "any",
  messages: [{ role: "user", content: prompt }],
  temperature: 0,
  stream: true,
  stream_options: { include_usage: true },
});
let usage;
for await (const chunk of stream) {
  process.stdout.write(chunk.choices[0]?.delta.content ?? ""); // the last chunk has the usage and no choice
  usage = chunk.usage ?? usage;
}
console.log();
if (usage) console.log(`${usage.prompt_tokens} tokens read, ${usage.completion_tokens} written`);
