// What an application on Node.js does with amqplib; prints what it saw as JSON.
// Arguments: a directory with node_modules, the broker's URL, a name.

import { createRequire } from "node:module";

const [directory, url, name] = process.argv.slice(2);
const amqp = createRequire(`${directory}/`)("amqplib");

const connection = await amqp.connect(url);
const seen = {};

const channel = await connection.createConfirmChannel();
await channel.assertQueue(name, { durable: true });
let confirmed = 0;
for (let number = 0; number < 100; number++) {
  channel.sendToQueue(name, Buffer.from(`${number}`), { persistent: true }, (error) => {
    if (!error) confirmed++;
  });
}
await channel.waitForConfirms();
seen.confirmed = confirmed;

await channel.assertExchange(`${name}-logs`, "topic", { durable: true });
const { queue } = await channel.assertQueue("", { exclusive: true });
await channel.bindQueue(queue, `${name}-logs`, "kern.*");
const got = [];
const both = new Promise((resolve) => {
  channel.consume(queue, (message) => {
    got.push([message.fields.routingKey, message.content.toString(), message.properties.headers.number]);
    channel.ack(message);
    if (got.length === 2) resolve();
  });
});
channel.publish(`${name}-logs`, "kern.info", Buffer.from("a"), { headers: { number: 1 } });
channel.publish(`${name}-logs`, "user.info", Buffer.from("x"), { headers: { number: 0 } });
channel.publish(`${name}-logs`, "kern.warn", Buffer.from("b"), { headers: { number: 2 } });
await both;
seen.got = got;

const returned = new Promise((resolve) => channel.once("return", (message) => resolve(message.fields.replyText)));
channel.publish(`${name}-logs`, "nobody", Buffer.from("x"), { mandatory: true });
seen.returned = await returned;

const server = await connection.createChannel();
await server.assertQueue(`${name}-rpc`, { autoDelete: true });
await server.consume(`${name}-rpc`, (message) => {
  server.sendToQueue(message.properties.replyTo, Buffer.from(`${Number(message.content) * 2}`), {
    correlationId: message.properties.correlationId,
  });
  server.ack(message);
});
const answer = new Promise((resolve) => {
  channel.consume("amq.rabbitmq.reply-to", (message) => resolve(message.content.toString()), { noAck: true });
});
channel.sendToQueue(`${name}-rpc`, Buffer.from("21"), { replyTo: "amq.rabbitmq.reply-to", correlationId: "1" });
seen.answer = await answer;

seen.count = (await channel.purgeQueue(name)).messageCount;

const other = await connection.createChannel();
other.on("error", () => {});
try {
  await other.checkQueue(`${name}-missing`);
} catch (error) {
  seen.error = error.code;
}

await connection.close();
console.log(JSON.stringify(seen));
