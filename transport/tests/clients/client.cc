// Call the tests' echo with the C++ library; print wrong results to stderr.
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

namespace {

using grpc::ByteBuffer;
using grpc::ClientContext;
using grpc::CompletionQueue;
using grpc::Status;

void check(bool holds, const std::string& what) {
  if (holds) return;
  std::cerr << "not so: " << what << std::endl;
  std::exit(1);
}

ByteBuffer pack(const std::string& bytes) {
  grpc::Slice slice(bytes);
  return ByteBuffer(&slice, 1);
}

std::string unpack(const ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  check(buffer.Dump(&slices).ok(), "an answer has bytes");
  std::string bytes;
  for (const auto& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return bytes;
}

bool next(CompletionQueue& queue) {
  void* tag;
  bool ok = false;
  check(queue.Next(&tag, &ok), "the queue is open");
  return ok;
}

Status call(grpc::GenericStub& stub, ClientContext& context, const std::string& method,
            const std::string& message, std::string* answer) {
  CompletionQueue queue;
  Status status;
  ByteBuffer reply;
  auto reader = stub.PrepareUnaryCall(&context, "/test.Echo/" + method, pack(message), &queue);
  reader->StartCall();
  reader->Finish(&reply, &status, nullptr);
  next(queue);
  if (status.ok()) *answer = unpack(reply);
  return status;
}

void unary(grpc::GenericStub& stub) {
  for (const std::string& message : {std::string(), std::string("x"), std::string(9 << 20, 'y')}) {
    ClientContext context;
    std::string answer;
    check(call(stub, context, "Unary", message, &answer).ok(), "an echo is OK");
    check(answer == message, "an echo is what was sent");
  }
}

void compressed(grpc::GenericStub& stub) {
  ClientContext context;
  context.set_compression_algorithm(GRPC_COMPRESS_GZIP);
  std::string message(100'000, 'z'), answer;
  check(call(stub, context, "Unary", message, &answer).ok(), "gzip is taken");
  check(answer == message, "gzip is what was sent");
}

void metadata_and_errors(grpc::GenericStub& stub) {
  std::string answer;
  ClientContext context;
  context.AddMetadata("x-a", "1");
  context.AddMetadata("x-raw-bin", std::string("\0\xff", 2));
  check(call(stub, context, "Show", "m", &answer).ok(), "metadata is taken");
  const auto& trailers = context.GetServerTrailingMetadata();
  check(trailers.find("seen-x-a")->second == "1", "text comes back");
  check(trailers.find("seen-x-raw-bin")->second == std::string("\0\xff", 2), "bytes come back");
  ClientContext failing;
  Status status = call(stub, failing, "Fail", "", &answer);
  check(status.error_code() == grpc::StatusCode::INVALID_ARGUMENT, "a failure has its code");
  check(status.error_message() == "bad: 100% na\u00efve\nline two \u2713", "and its text");
  ClientContext unknown;
  status = call(stub, unknown, "Nope", "", &answer);
  check(status.error_code() == grpc::StatusCode::UNIMPLEMENTED, "there is no such method");
  ClientContext late;
  late.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(100));
  status = call(stub, late, "Sleep", "5", &answer);
  check(status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED, "a deadline passes");
}

void stream(grpc::GenericStub& stub) {
  ClientContext context;
  CompletionQueue queue;
  auto both = stub.PrepareCall(&context, "/test.Echo/Bidi", &queue);
  both->StartCall(nullptr);
  check(next(queue), "a stream begins");
  for (int number = 0; number < 100; ++number) {
    std::string message = std::to_string(number) + std::string(number * 1000, 's');
    ByteBuffer answer;
    both->Write(pack(message), nullptr);
    check(next(queue), "a message leaves");
    both->Read(&answer, nullptr);
    check(next(queue), "a message comes");
    check(unpack(answer) == message, "it is what was sent");
  }
  both->WritesDone(nullptr);
  check(next(queue), "our side ends");
  Status status;
  both->Finish(&status, nullptr);
  next(queue);
  check(status.ok(), "a stream ends well");
}

}  // namespace

int main(int, char** arguments) {
  grpc::ChannelArguments options;
  options.SetMaxReceiveMessageSize(-1);
  grpc::GenericStub stub(
      grpc::CreateCustomChannel(arguments[1], grpc::InsecureChannelCredentials(), options));
  unary(stub);
  compressed(stub);
  metadata_and_errors(stub);
  stream(stub);
  return 0;
}
