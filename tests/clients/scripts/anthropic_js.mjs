// @anthropic-ai/sdk over /v1/messages.
import Anthropic from '@anthropic-ai/sdk';
import {z} from 'zod';
import {DOG, Dog, ENDLESS, GREETING, MOST, SUM, Sum, URL, calculator, main} from './parts.mjs';

const client = new Anthropic({baseURL: URL, apiKey: 'none', maxRetries: 0});
const asked = (question, more) => ({model: 'tiny', messages: [{role: 'user', content: question}], max_tokens: MOST, temperature: 0, ...more});
const textOf = message => message.content.map(block => block.text ?? '').join('');

await main({
  'messages': async () => textOf(await client.messages.create(asked(GREETING))),
  'messages stream': async () => {
    let text = '';
    const stream = client.messages.stream(asked(GREETING)).on('text', piece => { text += piece; });
    if (textOf(await stream.finalMessage()) !== text) throw new Error('the message is not what was streamed');
    return text;
  },
  'messages tools': async () => {
    const tool = {name: 'calculator', description: 'Work out a sum.', input_schema: z.toJSONSchema(Sum)};
    const said = asked(SUM, {max_tokens: 200, tools: [tool]});
    for (let turn = 0; turn < 5; turn++) {
      const message = await client.messages.stream(said).finalMessage();
      if (message.stop_reason !== 'tool_use') return textOf(message);
      const used = message.content.filter(block => block.type === 'tool_use');
      said.messages.push({role: 'assistant', content: message.content}, {role: 'user', content: used.map(block => (
        {type: 'tool_result', tool_use_id: block.id, content: [{type: 'text', text: calculator(block.input)}]}))});
    }
  },
  'messages structured': async () => {
    const tool = {name: 'dog', description: 'Note a dog.', input_schema: z.toJSONSchema(Dog)};
    const message = await client.messages.create(asked(DOG, {max_tokens: 100, tools: [tool], tool_choice: {type: 'tool', name: 'dog'}}));
    return message.content.find(block => block.type === 'tool_use').input;
  },
  'messages cancel': async () => {
    const seen = [];
    for await (const event of await client.messages.create(asked(ENDLESS, {max_tokens: 20000, stream: true}))) {
      seen.push(event.type);
      if (seen.length === 4) break;
    }
    return seen;
  },
});
