// Takes mqtt.js through cases: node mqttjs_client.mjs DIRECTORY CASES. DIRECTORY holds node_modules/mqtt; CASES is JSON:
// [{url, protocolVersion, ca}, ...]. Prints a line of JSON for each.
//
// A subscriber with a stored session goes away and comes back: it gets what was published meanwhile, and what comes then.

import { createRequire } from "node:module";
import { once } from "node:events";

const [directory, cases] = process.argv.slice(2);
const mqtt = createRequire(directory + "/")("mqtt");

async function connect({ url, protocolVersion, ca }, clientId, isStored, onMessage = () => {}) {
  const options = { protocolVersion, clientId, clean: !isStored, reconnectPeriod: 0, ca };
  if (protocolVersion === 3) options.protocolId = "MQIsdp";
  if (protocolVersion === 5) options.properties = { sessionExpiryInterval: isStored ? 600 : 0 };
  const client = mqtt.connect(url, options);
  client.on("message", onMessage);
  const [greeting] = await once(client, "connect"); // rejects at "error", which ends the program
  return { client, isPresent: greeting.sessionPresent };
}

async function run(one, number) {
  const root = `js/${number}`;
  const before = await connect(one, `subscriber${number}`, true);
  await before.client.subscribeAsync(`${root}/#`, { qos: 2 });
  await before.client.endAsync();

  const publisher = (await connect(one, `publisher${number}`, false)).client;
  for (const qos of [0, 1, 2]) await publisher.publishAsync(`${root}/${qos}`, `away ${qos}`, { qos });

  const got = [];
  let isEnough;
  const enough = new Promise((resolve) => (isEnough = resolve));
  const after = await connect(one, `subscriber${number}`, true, (topic, payload, packet) => {
    got.push([topic, payload.length, packet.qos]);
    if (got.length === 4) isEnough();
  });
  await publisher.publishAsync(`${root}/large`, Buffer.alloc(100000), { qos: 1 });
  await enough;
  await publisher.endAsync();
  await after.client.endAsync();
  console.log(JSON.stringify({ isPresent: after.isPresent, got: got.sort() })); // QoS 2 comes once it is released
}

let number = 0;
for (const one of JSON.parse(cases)) await run(one, number++);
