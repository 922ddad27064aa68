// Call the tests' echo with @grpc/grpc-js; a failed assertion exits with 1.
"use strict";
const assert = require("node:assert");
const grpc = require("@grpc/grpc-js");

const plain = (bytes) => bytes;
const client = new grpc.Client(process.argv[2], grpc.credentials.createInsecure(), {
  "grpc.max_receive_message_length": -1,
});

// Return the error, answer and trailers of one call.
function call(method, message, metadata = new grpc.Metadata(), options = {}) {
  return new Promise((resolve) => {
    let outcome;
    client
      .makeUnaryRequest(
        `/test.Echo/${method}`, plain, plain, message, metadata, options,
        (error, answer) => (outcome = { error, answer }),
      )
      .on("status", (status) => setImmediate(() => resolve({ ...outcome, ...status })));
  });
}

function stream(count) {
  return new Promise((resolve, reject) => {
    const sizes = [];
    const both = client.makeBidiStreamRequest("/test.Echo/Bidi", plain, plain);
    both.on("data", (message) => sizes.push(message.length));
    both.on("error", reject);
    both.on("end", () => resolve(sizes));
    for (let number = 0; number < count; number++) both.write(Buffer.alloc(number * 1000));
    both.end();
  });
}

async function main() {
  for (const message of [Buffer.alloc(0), Buffer.from("x"), Buffer.alloc(9 << 20, 7)]) {
    const { error, answer } = await call("Unary", message);
    assert.ifError(error);
    assert(answer.equals(message));
  }
  const many = await Promise.all(
    Array.from({ length: 500 }, (_, number) => call("Unary", Buffer.from(`${number}`))),
  );
  many.forEach(({ answer }, number) => assert.equal(answer.toString(), `${number}`));

  const sent = new grpc.Metadata();
  sent.set("x-a", "1");
  sent.set("x-raw-bin", Buffer.from([0, 255]));
  const shown = (await call("Show", Buffer.from("m"), sent)).metadata;
  assert.deepEqual(shown.get("seen-x-a"), ["1"]);
  assert.deepEqual(shown.get("seen-x-raw-bin"), [Buffer.from([0, 255])]);

  const failed = await call("Fail", Buffer.alloc(0));
  assert.equal(failed.code, grpc.status.INVALID_ARGUMENT);
  assert.equal(failed.details, "bad: 100% naïve\nline two ✓");
  assert.equal((await call("Nope", Buffer.alloc(0))).code, grpc.status.UNIMPLEMENTED);
  const late = await call("Sleep", Buffer.from("5"), sent, { deadline: Date.now() + 100 });
  assert.equal(late.code, grpc.status.DEADLINE_EXCEEDED);

  assert.deepEqual(await stream(100), Array.from({ length: 100 }, (_, number) => number * 1000));
  client.close();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
