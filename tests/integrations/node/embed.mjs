// Embeds texts with openai-node against the server whose address and model are given, and prints what came back.
// Usage: node embed.mjs http://127.0.0.1:30000/v1 builtin '["a text", "another"]'
import OpenAI from "openai";

const [baseURL, model, texts] = process.argv.slice(2);
const input = JSON.parse(texts);
const client = new OpenAI({ baseURL, apiKey: "EMPTY", maxRetries: 0 });

const read = ({ object, model, data, usage }) => ({ object, model, data, usage });
const refused = async (body) => {
  try {
    await client.embeddings.create(body);
    return null;
  } catch (error) {
    const { status, code, param, type } = error;
    return { name: error.constructor.name, status, code, param, type };
  }
};

console.log(
  JSON.stringify({
    // openai-node asks for base64 unless told otherwise, and decodes it.
    default: read(await client.embeddings.create({ model, input })),
    float: read(await client.embeddings.create({ model, input, encoding_format: "float" })),
    base64: read(await client.embeddings.create({ model, input, encoding_format: "base64" })),
    string: read(await client.embeddings.create({ model, input: input[0], dimensions: 64 })),
    models: (await client.models.list()).data.map(({ id }) => id),
    empty: await refused({ model, input: [input[0], ""] }),
    unknown: await refused({ model: "text-embedding-3-small", input }),
  }),
);
