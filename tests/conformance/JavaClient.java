// Takes Kafka's own Java client through a day's work: java JavaClient SERVER. Says a line for each thing it does, its name
// and what came of it; see java_client.py.

import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.serialization.*;

public class JavaClient {
  static final TopicPartition FIRST = new TopicPartition("t", 0);
  static String server;

  interface Step { Object run() throws Exception; }

  static void step(String name, Step step) {
    Object came;
    try {
      came = step.run();
    } catch (Throwable error) {
      while (error.getCause() != null) error = error.getCause();
      came = error.getClass().getSimpleName();
    }
    System.out.println(name + ": " + came);
  }

  static Properties with(Object... pairs) {
    Properties made = new Properties();
    made.put("bootstrap.servers", server);
    for (int i = 0; i < pairs.length; i += 2) made.put(pairs[i], pairs[i + 1]);
    return made;
  }

  static KafkaProducer<String, String> producer(Object... pairs) {
    return new KafkaProducer<>(with(pairs), new StringSerializer(), new StringSerializer());
  }

  static KafkaConsumer<String, String> consumer(Object... pairs) {
    Properties made = with(pairs);
    made.put("auto.offset.reset", "earliest");
    return new KafkaConsumer<>(made, new StringDeserializer(), new StringDeserializer());
  }

  static int read(KafkaConsumer<String, String> consumer, String topic, int count) {
    consumer.subscribe(List.of(topic));
    int found = 0;
    for (int i = 0; i < 100 && found < count; i++) found += consumer.poll(Duration.ofMillis(200)).count();
    return found;
  }

  public static void main(String[] arguments) throws Exception {
    server = arguments[0];
    Admin admin = Admin.create(with());
    ConfigResource topic = new ConfigResource(ConfigResource.Type.TOPIC, "t");
    step("create", () -> admin.createTopics(List.of(new NewTopic("t", 3, (short) 1))).all().get());
    step("grow", () -> admin.createPartitions(Map.of("t", NewPartitions.increaseTo(4))).all().get());
    step("describe", () -> admin.describeTopics(List.of("t")).allTopicNames().get().get("t").partitions().size());
    AlterConfigOp change = new AlterConfigOp(new ConfigEntry("retention.ms", "700000"), AlterConfigOp.OpType.SET);
    step("change", () -> admin.incrementalAlterConfigs(Map.of(topic, List.of(change))).all().get());
    step("changed", () -> admin.describeConfigs(List.of(topic)).all().get().get(topic).get("retention.ms").value());
    for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
      step("produce " + codec, () -> {
        try (var producer = producer("compression.type", codec)) {
          List<Future<RecordMetadata>> sent = new ArrayList<>();
          for (int i = 0; i < 100; i++) sent.add(producer.send(new ProducerRecord<>("t", "k" + i, "v".repeat(300))));
          for (Future<RecordMetadata> one : sent) one.get(20, TimeUnit.SECONDS);
          return sent.size();
        }
      });
    }
    step("too large", () -> {
      try (var producer = producer("max.request.size", 5000000)) {
        return producer.send(new ProducerRecord<>("t", "x".repeat(3000000))).get();
      }
    });
    step("group", () -> {
      try (var reader = consumer("group.id", "g")) {
        int count = read(reader, "t", 500);
        reader.commitSync();
        return count;
      }
    });
    step("static members, cooperative", () -> {
      String assignor = CooperativeStickyAssignor.class.getName();
      Object[] both = {"group.id", "c", "partition.assignment.strategy", assignor, "group.instance.id"};
      Object[] first = Arrays.copyOf(both, 6), second = Arrays.copyOf(both, 6);
      first[5] = "first";
      second[5] = "second";
      try (var one = consumer(first); var two = consumer(second)) {
        read(one, "t", 500);
        two.subscribe(List.of("t"));
        for (int i = 0; i < 200 && (one.assignment().size() != 2 || two.assignment().size() != 2); i++) {
          one.poll(Duration.ofMillis(50));
          two.poll(Duration.ofMillis(50));
        }
        return one.assignment().size() + " and " + two.assignment().size();
      }
    });
    step("broker assigns", () -> {
      try (var reader = consumer("group.id", "b", "group.protocol", "consumer")) {
        return read(reader, "t", 1);
      }
    });
    step("transactions", () -> {
      Object[] committed = {"isolation.level", "read_committed", "enable.auto.commit", "false", "group.id", "moved"};
      try (var producer = producer("transactional.id", "x"); var reader = consumer(committed)) {
        producer.initTransactions();
        reader.subscribe(List.of("t"));
        for (int done = 0, i = 0; done < 500 && i < 100; i++) {
          ConsumerRecords<String, String> records = reader.poll(Duration.ofMillis(200));
          if (records.isEmpty()) continue;
          producer.beginTransaction();
          Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
          for (ConsumerRecord<String, String> record : records) {
            producer.send(new ProducerRecord<>("out", record.key(), record.value()));
            TopicPartition partition = new TopicPartition(record.topic(), record.partition());
            offsets.put(partition, new OffsetAndMetadata(record.offset() + 1));
          }
          producer.sendOffsetsToTransaction(offsets, reader.groupMetadata());
          producer.commitTransaction();
          done += records.count();
        }
        producer.beginTransaction();
        producer.send(new ProducerRecord<>("out", "aborted", "")).get();
        producer.abortTransaction();
      }
      try (var reader = consumer("isolation.level", "read_committed", "group.id", "out")) {
        return read(reader, "out", 500) + reader.poll(Duration.ofMillis(200)).count();
      }
    });
    step("fenced", () -> {
      try (var older = producer("transactional.id", "f"); var newer = producer("transactional.id", "f")) {
        older.initTransactions();
        newer.initTransactions();
        older.beginTransaction();
        return older.send(new ProducerRecord<>("t", "zombie")).get();
      }
    });
    step("describe group", () -> admin.describeConsumerGroups(List.of("g")).all().get().get("g").state());
    step("offsets", () -> admin.listConsumerGroupOffsets("g").partitionsToOffsetAndMetadata().get().size());
    step("reset", () -> admin.alterConsumerGroupOffsets("g", Map.of(FIRST, new OffsetAndMetadata(1))).all().get());
    step("delete offsets", () -> admin.deleteConsumerGroupOffsets("g", Set.of(FIRST)).all().get());
    step("delete group", () -> admin.deleteConsumerGroups(List.of("g")).all().get());
    step("delete records", () -> admin.deleteRecords(Map.of(FIRST, RecordsToDelete.beforeOffset(1))).all().get());
    step("earliest", () -> admin.listOffsets(Map.of(FIRST, OffsetSpec.earliest())).all().get().get(FIRST).offset());
    step("list transactions", () -> admin.listTransactions().all().get().size());
    step("producers", () -> admin.describeProducers(List.of(FIRST)).all().get().size());
    step("fence", () -> admin.fenceProducers(List.of("x")).all().get());
    step("log directories", () -> admin.describeLogDirs(List.of(0)).allDescriptions().get().size());
    step("elect", () -> admin.electLeaders(org.apache.kafka.common.ElectionType.PREFERRED, Set.of(FIRST)).all().get());
    step("delete", () -> admin.deleteTopics(List.of("t")).all().get());
    admin.close();
  }
}
