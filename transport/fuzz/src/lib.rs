//! Properties that hold for any input of a peer.
//!
//! `make fuzz` in the folder above runs all targets for a bounded time, on stable Rust. With
//! cargo-fuzz and a nightly toolchain, `cargo +nightly fuzz run server` adds the address sanitizer.

pub mod grpc;
mod harness;
pub mod link;
mod script;
pub mod server;
