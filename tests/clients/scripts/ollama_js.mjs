// ollama for JavaScript over /api/*.
import {Ollama} from 'ollama';
import {z} from 'zod';
import {DOG, Dog, ENDLESS, GREETING, MOST, SUM, Sum, URL, calculator, main} from './parts.mjs';

const client = new Ollama({host: URL});
const asked = (question, more) => ({model: 'tiny', messages: [{role: 'user', content: question}], options: {temperature: 0, num_predict: MOST}, ...more});
const long = {options: {temperature: 0, num_predict: 20000}};

await main({
  'chat': async () => (await client.chat(asked(GREETING))).message.content,
  'chat stream': async () => {
    let text = '';
    for await (const piece of await client.chat(asked(GREETING, {stream: true}))) text += piece.message.content;
    return text;
  },
  'chat tools': async () => {
    const tool = {type: 'function', function: {name: 'calculator', description: 'Work out a sum.', parameters: z.toJSONSchema(Sum)}};
    const said = asked(SUM, {tools: [tool], ...long});
    for (let turn = 0; turn < 5; turn++) {
      const {message} = await client.chat(said);
      if (!message.tool_calls?.length) return message.content;
      said.messages.push(message, ...message.tool_calls.map(call => (
        {role: 'tool', tool_name: call.function.name, content: calculator(call.function.arguments)})));
    }
  },
  'chat structured': async () => JSON.parse((await client.chat(asked(DOG, {format: z.toJSONSchema(Dog)}))).message.content),
  'chat cancel': async () => {
    const stream = await client.chat(asked(ENDLESS, {stream: true, ...long}));
    let count = 0;
    try {
      for await (const piece of stream) if (piece.message.content && ++count === 3) stream.abort();
    } catch (error) {
      if (error.name !== 'AbortError') throw error;
    }
    return count;
  },
});
