// openai for JavaScript over chat and Responses.
import OpenAI from 'openai';
import {zodResponseFormat, zodTextFormat} from 'openai/helpers/zod';
import {z} from 'zod';
import {DOG, Dog, ENDLESS, GREETING, MOST, SUM, Sum, URL, calculator, main} from './parts.mjs';

const client = new OpenAI({baseURL: URL + '/v1', apiKey: 'none', maxRetries: 0});
const asked = (question, more) => ({model: 'tiny', messages: [{role: 'user', content: question}], temperature: 0, ...more});
const input = (question, more) => ({model: 'tiny', input: question, temperature: 0, max_output_tokens: MOST, ...more});
const parameters = z.toJSONSchema(Sum);

await main({
  'chat': async () => (await client.chat.completions.create(asked(GREETING, {max_tokens: MOST}))).choices[0].message.content,
  'chat stream': async () => {
    let text = '';
    for await (const chunk of await client.chat.completions.create(asked(GREETING, {max_tokens: MOST, stream: true})))
      text += chunk.choices[0]?.delta.content ?? '';
    return text;
  },
  'chat tools': () => client.chat.completions.runTools(asked(SUM, {tools: [{type: 'function',
    function: {name: 'calculator', description: 'Work out a sum.', parameters, parse: JSON.parse, function: calculator}}]})).finalContent(),
  'chat tools streamed': () => client.chat.completions.runTools(asked(SUM, {stream: true, tools: [{type: 'function',
    function: {name: 'calculator', description: 'Work out a sum.', parameters, parse: JSON.parse, function: calculator}}]})).finalContent(),
  'chat structured': async () => (await client.chat.completions.parse(
    asked(DOG, {max_tokens: 80, response_format: zodResponseFormat(Dog, 'dog')}))).choices[0].message.parsed,
  'chat cancel': async () => {
    const seen = [];
    for await (const chunk of await client.chat.completions.create(asked(ENDLESS, {max_tokens: 20000, stream: true}))) {
      seen.push(chunk.object);
      if (seen.length === 3) break;
    }
    return seen;
  },
  'responses': async () => (await client.responses.create(input(GREETING))).output_text,
  'responses stream': async () => {
    let text = '';
    for await (const event of await client.responses.create(input(GREETING, {stream: true})))
      if (event.type === 'response.output_text.delta') text += event.delta;
    return text;
  },
  'responses tools': async () => {
    let said = {input: SUM};
    for (let turn = 0; turn < 5; turn++) {
      const reply = await client.responses.stream({model: 'tiny', tools: [{type: 'function', name: 'calculator', parameters, strict: true}], ...said}).finalResponse();
      const calls = reply.output.filter(item => item.type === 'function_call');
      if (!calls.length) return reply.output_text;
      said = {previous_response_id: reply.id, input: calls.map(call => (
        {type: 'function_call_output', call_id: call.call_id, output: calculator(JSON.parse(call.arguments))}))};
    }
  },
  'responses structured': async () => (await client.responses.parse(
    input(DOG, {max_output_tokens: 80, text: {format: zodTextFormat(Dog, 'dog')}}))).output_parsed,
  'responses cancel': async () => {
    const seen = [];
    for await (const event of await client.responses.create(input(ENDLESS, {max_output_tokens: 20000, stream: true}))) {
      seen.push(event.type);
      if (seen.length === 6) break;
    }
    return seen;
  },
});
