// Takes kafkajs through a day's work: node kafkajs_client.mjs DIRECTORY SERVER. DIRECTORY holds node_modules/kafkajs and
// kafkajs-snappy. Prints a line of JSON with what it found; ends with another code than 0 if anything is refused.

import { createRequire } from "node:module";

const [directory, server] = process.argv.slice(2);
const require = createRequire(directory + "/");
const { Kafka, CompressionCodecs, CompressionTypes, Partitioners, logLevel } = require("kafkajs");
CompressionCodecs[CompressionTypes.Snappy] = require("kafkajs-snappy");

const kafka = new Kafka({ clientId: "test", brokers: [server], logLevel: logLevel.NOTHING });
const found = {};

function consumer(groupId) {
  return kafka.consumer({ groupId, heartbeatInterval: 200, rebalanceTimeout: 10000, maxWaitTimeInMs: 200 });
}

// Reads until `enough` says so of all messages so far, as a member of a group.
async function read(groupId, topic, enough) {
  const reader = consumer(groupId);
  await reader.connect();
  await reader.subscribe({ topics: [topic], fromBeginning: true });
  const messages = [];
  await new Promise((resolve, reject) => {
    reader.on(reader.events.CRASH, ({ payload }) => reject(payload.error));
    reader.run({
      eachMessage: async ({ message }) => {
        messages.push(message);
        if (enough(messages)) resolve();
      },
    });
  });
  await reader.disconnect();
  return messages;
}

const admin = kafka.admin();
await admin.connect();
await admin.createTopics({ topics: [{ topic: "t", numPartitions: 3, configEntries: [{ name: "retention.ms", value: "9000000" }] }] });
await admin.createPartitions({ topicPartitions: [{ topic: "t", count: 4 }] });
const described = await admin.describeConfigs({ resources: [{ type: 2, name: "t", configNames: ["retention.ms"] }] });
found.retention = described.resources[0].configEntries[0].configValue;
found.partitions = (await admin.fetchTopicMetadata({ topics: ["t"] })).topics[0].partitions.length;

// every compression
const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner });
await producer.connect();
found.compressions = {};
for (const name of ["None", "GZIP", "Snappy"]) {
  const messages = [..."abc"].map((key) => ({ key, value: key.repeat(500), headers: { of: name } }));
  await producer.send({ topic: name, compression: CompressionTypes[name], messages });
  const got = await read("read-" + name, name, (messages) => messages.length >= 3);
  found.compressions[name] = got.map((message) => `${message.key} ${message.value.length} ${message.headers.of}`).join();
}

// a message that is too large is refused, and nothing else
const tooLarge = { topic: "t", messages: [{ value: Buffer.alloc(3000000) }] };
found.tooLarge = await producer.send(tooLarge).then(() => "taken", (error) => (error.cause ?? error).type);
await producer.send({ topic: "t", messages: Array.from({ length: 100 }, (_, i) => ({ key: `${i}`, value: `${i}` })) });

// transactions
const transactional = kafka.producer({
  transactionalId: "kafkajs", idempotent: true, maxInFlightRequests: 1, createPartitioner: Partitioners.DefaultPartitioner,
});
await transactional.connect();
for (let i = 0; i < 4; i++) {
  const transaction = await transactional.transaction();
  await transaction.send({ topic: "decided", messages: [{ value: `a${i}` }, { value: `b${i}` }] });
  const topics = [{ topic: "t", partitions: [{ partition: 0, offset: `${i}` }] }];
  await transaction.sendOffsets({ consumerGroupId: "moved", topics });
  await (i % 2 ? transaction.abort() : transaction.commit());
}
const decided = await read("read-decided", "decided", (messages) => messages.length >= 4);
found.decided = decided.map((message) => `${message.value}`).join();
const moved = await admin.fetchOffsets({ groupId: "moved", topics: ["t"] });
found.moved = moved[0].partitions.find(({ partition }) => partition === 0).offset;

// two members share a group
const members = [consumer("shared"), consumer("shared")];
const shares = new Map(members.map((member) => [member, []]));
const seen = new Set();
for (const member of members) {
  await member.connect();
  await member.subscribe({ topic: "t", fromBeginning: true });
  member.on(member.events.GROUP_JOIN, ({ payload }) => shares.set(member, payload.memberAssignment.t ?? []));
  member.run({ eachMessage: async ({ partition, message }) => void seen.add(`${partition}/${message.offset}`) });
}
while (seen.size < 100 || [...shares.values()].some((share) => share.length !== 2)) await new Promise((done) => setTimeout(done, 20));
found.shared = [...shares.values()].flat().sort().join();
for (const member of members) await member.disconnect();

// a group without members is set back to the beginning, by a negative offset (kafkajs takes 5 s for that)
await admin.resetOffsets({ groupId: "shared", topic: "t", earliest: true });
found.reset = (await read("shared", "t", (messages) => messages.length >= 100)).length;
await admin.deleteGroups(["shared"]);
await admin.deleteTopicRecords({ topic: "t", partitions: [{ partition: 0, offset: "1" }] });
found.start = (await admin.fetchTopicOffsets("t")).find(({ partition }) => partition === 0).low;
await admin.deleteTopics({ topics: ["t"] });
found.isGone = !(await admin.listTopics()).includes("t");

console.log(JSON.stringify(found));
for (const each of [producer, transactional, admin]) await each.disconnect();
