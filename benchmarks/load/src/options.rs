//! The command line.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::str::FromStr;

#[derive(Clone, Copy, PartialEq)]
pub enum Mode {
    Closed,
    Open,
    Stream,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Protocol {
    Grpc,
    Http,
}

pub struct Options {
    pub mode: Mode,
    pub protocol: Protocol,
    pub address: String,
    pub path: String,
    pub messages: Vec<Bytes>,
    pub callers: usize,
    pub connections: usize,
    pub rate: f64,
    pub seconds: f64,
    pub warm_up_s: f64,
    pub timeout_ms: u64,
    /// Name of the header that tells an HTTP server the milliseconds left; empty for none.
    pub timeout_header: String,
    pub slo_ms: f64,
    pub seed: u64,
}

struct Flags(BTreeMap<String, String>);

impl Flags {
    fn text(&self, name: &str, default: &str) -> String {
        self.0
            .get(name)
            .cloned()
            .unwrap_or_else(|| default.to_string())
    }

    fn number<T: FromStr>(&self, name: &str, default: T) -> Result<T, String> {
        match self.0.get(name) {
            Some(value) => value
                .parse()
                .map_err(|_| format!("--{name}: {value:?} is no number")),
            None => Ok(default),
        }
    }

    fn choice<T: Copy>(&self, name: &str, choices: &[(&str, T)]) -> Result<T, String> {
        let value = self.text(name, choices[0].0);
        let names: Vec<&str> = choices.iter().map(|choice| choice.0).collect();
        let found = choices.iter().find(|choice| choice.0 == value);
        found
            .map(|choice| choice.1)
            .ok_or(format!("--{name}: one of {}", names.join(", ")))
    }
}

impl Options {
    pub fn from_arguments(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut values = BTreeMap::new();
        while let Some(flag) = arguments.next() {
            let value = arguments.next().ok_or(format!("{flag} needs a value"))?;
            values.insert(flag.trim_start_matches("--").to_string(), value);
        }
        let flags = Flags(values);
        let rate: f64 = flags.number("rate", 0.0)?;
        let mode = flags.choice(
            "mode",
            &[
                ("closed", Mode::Closed),
                ("open", Mode::Open),
                ("stream", Mode::Stream),
            ],
        )?;
        if mode == Mode::Open && (!rate.is_finite() || rate <= 0.0) {
            return Err("--rate: requests a second of an open loop, greater than 0".to_string());
        }
        let protocol = flags.choice(
            "protocol",
            &[("grpc", Protocol::Grpc), ("http", Protocol::Http)],
        )?;
        Ok(Options {
            mode,
            protocol,
            address: flags.text("address", ""),
            path: flags.text("path", ""),
            messages: messages(&flags.text("messages", ""), protocol)?,
            callers: flags.number("callers", 1)?,
            connections: flags.number("connections", 1usize)?.max(1),
            rate,
            seconds: flags.number("seconds", 3.0)?,
            warm_up_s: flags.number("warm-up", 0.5)?,
            timeout_ms: flags.number("timeout-ms", 10_000)?,
            timeout_header: flags.text("timeout-header", ""),
            slo_ms: flags.number("slo-ms", 50.0)?,
            seed: flags.number("seed", 1)?,
        })
    }
}

fn messages(path: &str, protocol: Protocol) -> Result<Vec<Bytes>, String> {
    let file =
        std::fs::read(path).map_err(|error| format!("--messages: cannot read {path}: {error}"))?;
    let mut messages = Vec::new();
    let mut rest = &file[..];
    while let Some((size, after)) = rest.split_first_chunk::<4>() {
        let size = u32::from_le_bytes(*size) as usize;
        let message = after
            .get(..size)
            .ok_or(format!("--messages: {path} ends within a message"))?;
        messages.push(match protocol {
            Protocol::Grpc => crate::grpc::framed(message),
            Protocol::Http => Bytes::copy_from_slice(message),
        });
        rest = &after[size..];
    }
    if messages.is_empty() {
        return Err(format!("--messages: {path} holds no message"));
    }
    Ok(messages)
}
