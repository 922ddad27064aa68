// Query the model of iris_classifier.py from Node; argument: the gRPC address of a frontend.
const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const includeDirs = [path.join(__dirname, "..", "..", "protos")];
const query = loader.loadSync("skysail_protos/v1/query.proto", { includeDirs });
const { QueryService } = grpc.loadPackageDefinition(query).skysail.v1;
const client = new QueryService(process.argv[2] ?? "127.0.0.1:8001", grpc.credentials.createInsecure());

const flower = Buffer.from(new Float64Array([6.7, 3.1, 5.6, 2.4]).buffer);
const inputs = [{ datatype: "DATA_TYPE_FP64", shape: [1, 4], data: flower }];

client.predict({ target: "iris", inputs }, { deadline: Date.now() + 5000 }, (error, answer) => {
  if (error) {
    console.error(error.message);
    process.exit(1);
  }
  const species = answer.outputs.find((output) => output.name === "species");
  // A BYTES element is its length in four bytes, then its bytes.
  console.log(species.data.subarray(4).toString(), "by version", answer.version);
  client.close();
});
