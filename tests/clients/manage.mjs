// The official JavaScript client of Ollama manages models; prints what it read as JSON.
import { Ollama } from "ollama";

const [url, model] = process.argv.slice(2);
const ollama = new Ollama({ host: url });
const names = async () => (await ollama.list()).models.map((one) => one.name).sort();

const pulled = [];
for await (const line of await ollama.pull({ model, stream: true })) pulled.push(line.status);
const shown = await ollama.show({ model });
await ollama.embed({ model, input: "x" });
const running = (await ollama.ps()).models.map((one) => one.name);
await ollama.copy({ source: model, destination: "js-copy" });
const created = await ollama.create({ model: "js-made", from: model, parameters: { num_ctx: 16 } });
const after = await names();
const parameters = (await ollama.show({ model: "js-made" })).parameters;
await ollama.delete({ model: "js-copy" });
await ollama.delete({ model: "js-made" });
const refused = await ollama.delete({ model: "js-made" }).catch((error) => error.status_code);
const family = shown.details.family;
const last = pulled.at(-1);
console.log(JSON.stringify({ last, family, running, created, after, parameters, refused, left: await names() }));
