//! A server that answers anything, and an engine that has a link to it.
#![no_main]

use skysail_transport_fuzz::link;

libfuzzer_sys::fuzz_target!(|input: &[u8]| link::check(input));
