// Official JavaScript clients; prints what they read as JSON.
import { Ollama } from "ollama";
import OpenAI, { NotFoundError } from "openai";

const [url, model, ...texts] = process.argv.slice(2);
const ollama = new Ollama({ host: url });
const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none" });

const refusals = {
  ollama: await ollama.embed({ model: "nope", input: "x" }).catch((error) => error.status_code),
  openai: await openai.embeddings
    .create({ model: "nope", input: "x" })
    .catch((error) => (error instanceof NotFoundError ? error.status : `${error}`)),
};
const vectors = {
  ollama: (await ollama.embed({ model, input: texts })).embeddings,
  openai: (await openai.embeddings.create({ model, input: texts })).data.map((one) => one.embedding),
};
console.log(JSON.stringify({ vectors, refusals }));
