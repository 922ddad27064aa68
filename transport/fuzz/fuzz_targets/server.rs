//! A client that sends anything, and an engine that serves it.
#![no_main]

use skysail_transport_fuzz::server;

libfuzzer_sys::fuzz_target!(|input: &[u8]| server::check(input));
