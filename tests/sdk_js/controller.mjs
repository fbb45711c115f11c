// What stands below useStream of the stock JavaScript SDK; prints what it saw as one JSON object.
// Usage: node controller.mjs <sse|websocket> <url of the edge>
import { Client } from "@langchain/langgraph-sdk";
import { StreamController } from "@langchain/langgraph-sdk/stream";

const [transport, apiUrl] = process.argv.slice(2);
const client = new Client({ apiUrl, apiKey: null });
const user = (text) => ({ messages: [{ type: "human", content: text }] });
const seen = {};

function open(assistantId, threadId = null) {
  const ends = [];
  const controller = new StreamController({
    assistantId,
    client,
    threadId,
    transport,
    onCompleted: ({ reason }) => ends.push(reason),
  });
  const root = controller.rootStore;
  const until = (holds) =>
    new Promise((resolve) => {
      const look = () => holds(root.getSnapshot()) && (resolve(root.getSnapshot()), true);
      if (look()) return;
      const leave = root.subscribe(() => look() && leave());
    });
  return { controller, until, ends };
}
const told = ({ messages }) => messages.map((message) => [message.getType(), message.text]);

async function conversation() {
  const { controller, until, ends } = open("agent");
  await controller.submit(user('tool=current_time({"zone":"Asia/Seoul"}) tokens=5'));
  const first = await until((s) => !s.isLoading && s.messages.length === 4);
  await controller.submit(user("tokens=7"));
  await until((s) => !s.isLoading);
  while (ends.length < 2) await new Promise((resolve) => setTimeout(resolve, 10));
  const { values } = await client.threads.getState(first.threadId);
  const contents = values.messages.map((message) => message.content);
  // the store takes in what came a moment later than the run's end
  const second = await until((s) => `${told(s).map(([, text]) => text)}` === `${contents}`);
  await controller.dispose();
  seen.conversation = {
    types: told(first).map(([type]) => type),
    tools: first.toolCalls.map((call) => [call.name, call.status]),
    error: second.error ?? null,
    ends,
  };
  return second.threadId;
}

async function reload(threadId) {
  const { controller, until } = open("agent", threadId);
  await controller.hydrationPromise;
  const hydrated = told(await until((s) => s.messages.length === 6)).length;
  await controller.submit(user("tokens=3"));
  const snapshot = await until((s) => !s.isLoading && s.messages.length === 8);
  await controller.dispose();
  seen.reload = { hydrated, error: snapshot.error ?? null };
}

async function interrupts() {
  const { controller, until, ends } = open("approval");
  await controller.submit(user("How many people live in Seoul?"));
  const asked = await until((s) => !s.isLoading && s.interrupt !== undefined);
  await controller.respond(true);
  const answered = await until((s) => !s.isLoading && s.values.approved === true);
  await controller.dispose();
  seen.interrupts = {
    question: asked.interrupt.value.question,
    answer: told(answered).at(-1)[1],
    left: answered.interrupts.length,
    ends: ends.slice(0, 1),
  };
}

// what somebody else answers is no question here any more, long before the run is over
async function watches() {
  const { controller, until } = open("approval");
  await controller.submit(user("How many people live in Seoul?"));
  const { threadId } = await until((s) => !s.isLoading && s.interrupt !== undefined);
  const other = open("approval", threadId);
  await other.controller.hydrationPromise;
  const asked = (await other.until((s) => s.interrupt !== undefined)).interrupts.length;
  const works = other.until((s) => s.isLoading).then(() => true);
  const thread = await client.threads.get(threadId);
  const [[{ id }]] = Object.values(thread.interrupts);
  const answering = client.runs.create(threadId, "approval", { command: { resume: { [id]: true } } });
  const hidden = await other.until((s) => s.interrupts.length === 0);
  await answering;
  await other.until((s) => !s.isLoading && s.values.approved === true);
  await Promise.all([controller.dispose(), other.controller.dispose()]);
  seen.watches = { asked, early: hidden.values.approved !== true, works: await works };
}

async function stops() {
  const { controller, until } = open("agent");
  const submitted = controller.submit(user("tokens=2000 rate=50"));
  await until((s) => told(s).some(([type, text]) => type === "ai" && text.length > 20));
  await controller.stop();
  await submitted;
  const stopped = await until((s) => !s.isLoading);
  const [run] = await client.runs.list(stopped.threadId);
  await client.runs.join(stopped.threadId, run.run_id).catch(() => undefined);
  await controller.dispose();
  seen.stops = (await client.runs.get(stopped.threadId, run.run_id)).status;
}

// what takes too long says where it stood
setTimeout(() => {
  console.error("too slow", JSON.stringify(seen));
  process.exit(1);
}, 40_000).unref();

const threadId = await conversation();
await reload(threadId);
await interrupts();
await watches();
await stops();
console.log(JSON.stringify(seen));
process.exit(0);
