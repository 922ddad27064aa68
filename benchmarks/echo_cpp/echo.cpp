// The echo of gRPC's own C++ server: it parses nothing. Prints its port, ends with standard input.
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>

#include <iostream>
#include <string>

namespace {

class Reactor final : public grpc::ServerGenericBidiReactor {
 public:
  explicit Reactor(bool is_unary) : is_unary_(is_unary) { StartRead(&message_); }

  void OnReadDone(bool ok) override {
    if (!ok) {
      Finish(grpc::Status::OK);
    } else if (is_unary_) {
      StartWriteAndFinish(&message_, grpc::WriteOptions(), grpc::Status::OK);
    } else {
      StartWrite(&message_);
    }
  }

  void OnWriteDone(bool ok) override {
    if (ok && !is_unary_) StartRead(&message_);
  }

  void OnDone() override { delete this; }

 private:
  const bool is_unary_;
  grpc::ByteBuffer message_;
};

class Echo final : public grpc::CallbackGenericService {
  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext* call) override {
    return new Reactor(call->method() == "/benchmark.Echo/Unary");
  }
};

}  // namespace

int main() {
  Echo echo;
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterCallbackGenericService(&echo);
  const auto server = builder.BuildAndStart();
  if (!server) return 1;
  std::cout << port << std::endl;
  std::string line;
  while (std::getline(std::cin, line)) {
  }
  server->Shutdown();
}
