// The JavaScript SDK of MCP against `coterie mcp`: COMMAND (JSON: command, args, env) PART. Prints a JSON line.
import {Client} from '@modelcontextprotocol/sdk/client/index.js';
import {StdioClientTransport} from '@modelcontextprotocol/sdk/client/stdio.js';

const client = new Client({name: 'test', version: '1'});
await client.connect(new StdioClientTransport(JSON.parse(process.argv[2])), {timeout: 120000});
const greedy = (max_tokens) => ({message: 'fox', temperature: 0, max_tokens});
const chat = (given, options) => client.callTool({name: 'chat', arguments: given}, undefined, options);

const parts = {
  // A call that takes longer than the time-out, which every report starts again.
  async progress() {
    const seen = [];
    const options = {timeout: 1500, resetTimeoutOnProgress: true, onprogress: (report) => seen.push(report.progress)};
    const {structuredContent} = await chat(greedy(4000), options);
    return {seen, ...structuredContent, reply: null};
  },
  // A cancelled call; the next is answered at once, because nothing else runs.
  async cancel() {
    const leave = new AbortController();
    setTimeout(() => leave.abort('enough'), 1000);
    const error = await chat(greedy(8000), {signal: leave.signal}).catch(String);
    const begun = Date.now();
    await chat(greedy(3));
    return {error, seconds: (Date.now() - begun) / 1000};
  },
  async errors() {
    const half = await chat({message: 'cut \ud83d'}, {timeout: 20000}).catch(String);
    const {isError, content} = await chat({message: 'fox', max_token: 3});
    return {half, isError, text: content[0].text};
  },
};
console.log(JSON.stringify(await parts[process.argv[3]]()));
await client.close();
