// What a server on Node takes as the model of a request: JSON lines of {Kind, Body (base64)} in, lists of models out.
import { createInterface } from "node:readline";

async function models(kind, body) {
  const found = [];
  try {
    const document = JSON.parse(new TextDecoder("utf-8", { fatal: false }).decode(body));
    if (typeof document?.model === "string") found.push(document.model);
  } catch {}
  try {
    const form = await new Response(body, { headers: { "content-type": kind } }).formData();
    for (const value of form.getAll("model")) found.push(typeof value === "string" ? value : "a file");
  } catch {}
  return found;
}

for await (const line of createInterface({ input: process.stdin })) {
  const { Kind, Body } = JSON.parse(line);
  console.log(JSON.stringify(await models(Kind, Buffer.from(Body, "base64"))));
}
