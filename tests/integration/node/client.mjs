// Asks the server at BASE_URL what an application would, and prints what came as one JSON object.
import OpenAI, { toFile } from "openai";

const client = new OpenAI({ baseURL: `${process.env.BASE_URL}/v1`, apiKey: "sk-of-the-client", maxRetries: 0 });
const messages = [{ role: "user", content: "hello there" }];
const told = {};

told.chat = (await client.chat.completions.create({ model: "demo", messages })).choices[0].message.content;

told.streamed = "";
const stream = await client.chat.completions.create({
  model: "demo", messages, stream: true, stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  told.streamed += chunk.choices[0]?.delta?.content ?? "";
  told.usage = chunk.usage ?? told.usage;
}

const parameters = { type: "object", properties: { city: { type: "string" } } };
const runner = client.chat.completions.stream({
  model: "demo",
  messages: [{ role: "user", content: "weather in Paris" }],
  tools: [{ type: "function", function: { name: "get_weather", parameters } }],
});
told.call = (await runner.finalChatCompletion()).choices[0].message.tool_calls[0].function;

told.embedding = (await client.embeddings.create({ model: "demo-embed", input: "one" })).data[0].embedding.length;
told.response = (await client.responses.create({ model: "demo", input: "hello there" })).output_text;
told.models = (await client.models.list()).data.map((model) => model.id);
told.heard = (
  await client.audio.transcriptions.create({ model: "demo", file: await toFile(Buffer.alloc(70000), "a.wav") })
).text;

try {
  await client.chat.completions.create({ model: "nobody", messages });
} catch (error) {
  told.error = [error.constructor.name, error.status, error.code];
}

const aborted = await client.chat.completions.create({ model: "demo", messages, stream: true });
for await (const _ of aborted) break; // leaves in the middle
told.afterwards = (await client.models.list()).data.length > 0;

console.log(JSON.stringify(told));
