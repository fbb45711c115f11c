// Thread streams of the stock JavaScript SDK on one transport; prints what it saw as one JSON object.
// Usage: node threads.mjs <sse|websocket> <url of the edge>
import { Client } from "@langchain/langgraph-sdk";

const [transport, apiUrl] = process.argv.slice(2);
const client = new Client({ apiUrl, apiKey: null });
const user = (text) => ({ messages: [{ role: "user", content: text }] });
const told = (values) => values?.messages?.map((message) => [message.getType(), message.text]);
const stream = (...given) => {
  const options = { assistantId: "agent", transport, ...given.pop() };
  return client.threads.stream(...given, options);
};
const seen = {};

async function collect(iterable, read) {
  const found = [];
  for await (const item of iterable) found.push(await read(item));
  return found;
}
const texts = (thread) => collect(thread.messages, (message) => message.text);
// the SDK yields a call when it begins, and the same one when it ends
const calls = async (thread) => {
  const found = await collect(thread.toolCalls, async (call) => [call.id, call, await call.output]);
  return [...new Map(found.map(([id, call, output]) => [id, [call.name, call.args, output]])).values()];
};
const ends = (event) =>
  event.method === "lifecycle" &&
  event.params.namespace.length === 0 &&
  ["completed", "failed"].includes(event.params.data.event);

// a thread that the SDK names, a turn that is over before its streams are open
async function tools() {
  const thread = stream({});
  const { run_id } = await thread.run.start({
    input: user('tool=current_time({"zone":"Asia/Seoul"}) tokens=5'),
  });
  const [said, called, output] = await Promise.all([texts(thread), calls(thread), thread.output]);
  await thread.close();
  const run = await client.runs.get(thread.threadId, run_id);
  const { values } = await client.threads.getState(thread.threadId);
  seen.tools = {
    said: said.at(-1) === values.messages.at(-1).content && said.at(-1).length > 0,
    called: called.map(([name, args, output]) => [name, args, output.zone]),
    types: told(output).map(([type]) => type),
    output: told(output).at(-1)[1] === values.messages.at(-1).content,
    run: run.status,
  };
  return thread.threadId;
}

// turns one after the other on a thread, each with a stream of its own, as fast as it goes
async function turns(threadId) {
  seen.turns = [];
  for (const tokens of [3, 4, 5]) {
    const thread = stream(threadId, {});
    await thread.run.start({ input: user(`tokens=${tokens}`) });
    const [said, output] = await Promise.all([texts(thread), thread.output]);
    await thread.close();
    seen.turns.push([said.length, told(output).at(-1)[1] === said[0], told(output).length]);
  }
}

// projections that are asked for before the turn, on a thread whose last turn is just over
async function early(threadId) {
  const thread = stream(threadId, {});
  const reading = texts(thread);
  await new Promise((resolve) => setTimeout(resolve, 300));
  await thread.run.start({ input: user("tokens=6 rate=100") });
  const output = told(await thread.output);
  const said = await reading;
  await thread.close();
  seen.early = [said.length, output.at(-1)[1] === said[0]];
}

async function interrupts() {
  const thread = stream({ assistantId: "approval" });
  await thread.run.start({ input: user("How many people live in Seoul?") });
  const asked = told(await thread.output);
  const [question] = thread.interrupts;
  const values = await thread.subscribe({ channels: ["values", "lifecycle", "custom"] });
  await thread.input.respond({
    interrupt_id: question.interruptId,
    namespace: question.namespace,
    response: true,
  });
  const events = [];
  for await (const event of values) {
    events.push(event);
    if (ends(event)) break;
  }
  const last = events.filter((event) => event.method === "values").at(-1).params.data;
  await thread.close();
  seen.interrupts = {
    interrupted: asked.map(([type]) => type),
    question: question.payload.question,
    approved: last.approved,
    answer: last.messages.at(-1).content,
    custom: events.filter((event) => event.method === "custom").map((e) => e.params.data.payload),
    left: thread.interrupts.length,
  };
}

async function cancels() {
  const thread = stream({});
  const { run_id } = await thread.run.start({ input: user("tokens=2000 rate=50") });
  const said = [];
  for await (const message of thread.messages) {
    let deltas = 0;
    for await (const text of message.text) {
      said.push(text);
      if (++deltas === 5) await client.runs.cancel(thread.threadId, run_id);
    }
  }
  const output = told(await thread.output);
  await thread.close();
  seen.cancels = {
    kept: output.at(-1)[1] === said.join("") && said.length < 2000,
    run: (await client.runs.get(thread.threadId, run_id)).status,
  };
}

// what takes too long says where it stood
setTimeout(() => {
  console.error("too slow", JSON.stringify(seen));
  process.exit(1);
}, 40_000).unref();

const threadId = await tools();
await turns(threadId);
await early(threadId);
await interrupts();
await cancels();
console.log(JSON.stringify(seen));
process.exit(0);
