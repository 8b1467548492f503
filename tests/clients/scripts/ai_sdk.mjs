// The AI SDK: the OpenAI provider's default (Responses) and its .chat, the provider for compatible servers, Anthropic's.
import {generateObject, generateText, isStepCount, stepCountIs, streamText, tool} from 'ai';
import {createAnthropic} from '@ai-sdk/anthropic';
import {createOpenAI} from '@ai-sdk/openai';
import {createOpenAICompatible} from '@ai-sdk/openai-compatible';
import {DOG, Dog, ENDLESS, GREETING, MOST, PART, SUM, Sum, URL, calculator, main} from './parts.mjs';

const openai = createOpenAI({baseURL: URL + '/v1', apiKey: 'none'});
const compatible = createOpenAICompatible({name: 'coterie', baseURL: URL + '/v1', apiKey: 'none', supportsStructuredOutputs: true});
const anthropic = createAnthropic({baseURL: URL + '/v1', apiKey: 'none'});
const models = {responses: () => openai('tiny'), chat: () => openai.chat('tiny'), compatible: () => compatible('tiny'), messages: () => anthropic('tiny')};
const [kind] = PART.split(' ');
const asked = {model: models[kind](), temperature: 0, maxRetries: 0, maxOutputTokens: MOST};
const steps = (stepCountIs ?? isStepCount)(5);
const tools = {calculator: tool({description: 'Work out a sum.', inputSchema: Sum, execute: async given => calculator(given)})};
const fail = ({error}) => { throw error; };

await main(Object.fromEntries(Object.entries({
  '': async () => (await generateText({...asked, prompt: GREETING})).text,
  ' stream': async () => {
    let text = '';
    for await (const piece of streamText({...asked, prompt: GREETING, onError: fail}).textStream) text += piece;
    return text;
  },
  ' tools': async () => (await generateText({...asked, prompt: SUM, tools, stopWhen: steps, maxOutputTokens: 200})).text,
  ' tools streamed': async () => await streamText({...asked, prompt: SUM, tools, stopWhen: steps, maxOutputTokens: 200, onError: fail}).text,
  ' turns': async () => {  // what the model said goes back as the SDK keeps it
    const messages = [{role: 'user', content: GREETING}];
    for (let turn = 0; turn < 2; turn++) {
      const reply = await generateText({...asked, messages});
      messages.push(...(reply.responseMessages ?? reply.response.messages), {role: 'user', content: 'And you?'});
    }
    return (await generateText({...asked, messages})).text.length;
  },
  ' structured': async () => (await generateObject({...asked, prompt: DOG, schema: Dog, maxOutputTokens: 80})).object,
  ' cancel': async () => {
    const stop = new AbortController();
    let count = 0;
    try {
      for await (const piece of streamText({...asked, prompt: ENDLESS, maxOutputTokens: 20000, abortSignal: stop.signal}).textStream)
        if (piece && ++count === 3) stop.abort();
    } catch (error) {
      if (!stop.signal.aborted) throw error;
    }
    return count;
  },
}).map(([part, run]) => [kind + part, run])));
