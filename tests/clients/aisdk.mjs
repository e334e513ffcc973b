// The AI SDK with its Ollama provider, whose base URL is the bare host; prints the vectors.
import { embedMany } from "ai";
import { createOllama } from "ollama-ai-provider";

const [url, model, ...texts] = process.argv.slice(2);
const ollama = createOllama({ baseURL: url });
const { embeddings } = await embedMany({ model: ollama.embedding(model), values: texts, maxRetries: 0 });
const refusal = await embedMany({ model: ollama.embedding("nope"), values: ["x"], maxRetries: 0 }).catch(
  (error) => error.statusCode,
);
console.log(JSON.stringify({ vectors: embeddings, refusal }));
