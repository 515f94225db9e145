// A client that knows nothing of autovibe but its subjects: publishes a goal, watches, prints how it ended.
import { readFileSync } from "node:fs";
import { connect, credsAuthenticator, StringCodec } from "nats";

const [url, creds, project, machine] = process.argv.slice(2);
const text = StringCodec();
const client = await connect({ servers: url, authenticator: credsAuthenticator(readFileSync(creds)) });
const watch = client.subscribe(`av.${project}.machine.${machine}.>`);
await client.flush();
await client
  .jetstream()
  .publish(`in.${project}.machine.${machine}.MachineRequested`, text.encode('{"goal": "make test", "machine_type": "shell"}'));
const deadline = setTimeout(() => {
  console.error("no end within 30 s");
  process.exit(1);
}, 30_000);
let first;
for await (const message of watch) {
  const type = message.subject.split(".").at(-1);
  first ??= type;
  if (type === "MachineEnded") {
    const { outcome } = JSON.parse(text.decode(message.data));
    console.log(JSON.stringify({ machine, outcome, first }));
    break;
  }
}
clearTimeout(deadline);
await client.close();
