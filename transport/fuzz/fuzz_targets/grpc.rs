//! Messages, metadata, timeouts and texts of gRPC, without a socket.
#![no_main]

use skysail_transport_fuzz::grpc;

libfuzzer_sys::fuzz_target!(|input: &[u8]| grpc::check(input));
