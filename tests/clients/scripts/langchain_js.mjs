// @langchain/openai over chat and Responses.
import {ChatOpenAI} from '@langchain/openai';
import {tool} from '@langchain/core/tools';
import {DOG, Dog, ENDLESS, GREETING, MOST, PART, SUM, Sum, URL, calculator, main} from './parts.mjs';

const [kind] = PART.split(' ');
const model = most => new ChatOpenAI({model: 'tiny', apiKey: 'none', temperature: 0, maxTokens: most, maxRetries: 0,
  useResponsesApi: kind === 'responses', configuration: {baseURL: URL + '/v1'}});
const sum = tool(async given => calculator(given), {name: 'calculator', description: 'Work out a sum.', schema: Sum});

await main(Object.fromEntries(Object.entries({
  '': async () => (await model(MOST).invoke(GREETING)).text,
  ' stream': async () => {
    let text = '';
    for await (const piece of await model(MOST).stream(GREETING)) text += piece.text;
    return text;
  },
  ' tools': async () => {
    const messages = [{role: 'user', content: SUM}];
    for (let turn = 0; turn < 5; turn++) {
      const reply = await model(200).bindTools([sum]).invoke(messages);
      if (!reply.tool_calls.length) return reply.text;
      messages.push(reply);
      for (const call of reply.tool_calls) messages.push(await sum.invoke(call));
    }
  },
  ' structured': async () => {  // by the response's format and by a function
    const dogs = [];
    for (const method of ['jsonSchema', 'functionCalling'])
      dogs.push(await model(100).withStructuredOutput(Dog, {method, name: 'dog'}).invoke(DOG));
    return dogs.every(dog => Dog.safeParse(dog).success) ? dogs[0] : dogs;
  },
  ' cancel': async () => {
    const stop = new AbortController();
    let count = 0;
    try {
      for await (const piece of await model(20000).stream(ENDLESS, {signal: stop.signal}))
        if (piece.text && ++count === 3) stop.abort();
    } catch (error) {
      if (!stop.signal.aborted) throw error;
    }
    return count;
  },
}).map(([part, run]) => [kind + part, run])));
