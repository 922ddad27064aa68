//! `Engine`: inline, or with a thread of its own that turns it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::copying::{COPIED_BYTES_PER_TURN, Copies};
use super::dropped::Dropped;
use super::giving::{Batch, Clock, give};
use super::limits::PyLimits;
use super::taking::{to_headers, to_message, to_reply};
use super::tls::{PyClientTls, PyServerTls};
use crate::engine::{Counters, Engine, Event, Opening, Service};
use crate::net::poller::{Bell, Poller, wait_readable};
use crate::net::sockets::Endpoint;

/// What both threads of an engine share.
struct State {
    engine: Engine,
    // Of an engine with its own thread: readable while there is something to take.
    bell: Option<Arc<Bell>>,
    is_rung: bool,
    // Whether Python was told to wake since it last took.
    is_woken: bool,
}

impl State {
    fn ring(&mut self) {
        if let Some(bell) = &self.bell
            && self.engine.has_events()
            && !std::mem::replace(&mut self.is_rung, true)
        {
            bell.ring();
        }
    }

    fn take(&mut self) -> io::Result<Vec<Event>> {
        match &self.bell {
            None => self.engine.turn()?,
            Some(bell) => {
                bell.silence();
                self.is_rung = false;
            }
        }
        Ok(self.engine.take_events())
    }
}

type Shared = Arc<Mutex<Option<State>>>;

fn lock(shared: &Shared) -> MutexGuard<'_, Option<State>> {
    shared.lock().unwrap_or_else(|poisoned| {
        // After a panic the engine's state may be anything: its descriptors are closed, and
        // `take` says so.
        let mut state = poisoned.into_inner();
        *state = None;
        state
    })
}

// Tells Python that the engine's thread is no more, should it panic.
struct LastWord(Arc<Bell>);

impl Drop for LastWord {
    fn drop(&mut self) {
        self.0.ring();
    }
}

// The engine's own thread. It knows nothing of Python.
fn turn_for_ever(shared: &Shared, poller: &Poller, bell: Arc<Bell>) {
    let _last_word = LastWord(bell);
    let mut found = Vec::new();
    loop {
        found.clear();
        if poller.wait(&mut found, None).is_err() {
            return;
        }
        let mut state = lock(shared);
        let Some(state) = state.as_mut() else { return };
        state.engine.turn_with(&found);
        state.ring();
    }
}

/// See the stub.
#[pyclass(frozen, name = "Engine", module = "skysail_transport")]
pub struct PyEngine {
    shared: Shared,
    fd: RawFd,
    clock: Clock,
    dropped: Arc<Dropped>,
    paths: Mutex<Arc<Vec<Py<PyString>>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    last_counters: Mutex<Counters>,
    copies: Mutex<Copies>,
    copied_bytes_per_turn: usize,
}

impl PyEngine {
    // Runs `work` on the engine and then carries out what it noted; `None` once it is closed.
    fn with<T>(&self, work: impl FnOnce(&mut Engine) -> T) -> Option<T> {
        let mut state = lock(&self.shared);
        let state = state.as_mut()?;
        let result = work(&mut state.engine);
        state.engine.drive();
        state.ring();
        Some(result)
    }

    fn take_now(&self) -> io::Result<Vec<Event>> {
        if self.shared.is_poisoned() {
            drop(lock(&self.shared));
            return Err(has_failed());
        }
        lock(&self.shared).as_mut().map_or_else(|| Ok(Vec::new()), State::take)
    }

    // Has the engine's descriptor tell that there is more to take.
    fn ring(&self) {
        if let Some(state) = lock(&self.shared).as_ref() {
            state.engine.poller().ring();
        }
    }

    fn take_woken(&self) -> bool {
        lock(&self.shared).as_mut().is_some_and(|state| std::mem::take(&mut state.is_woken))
    }

    // Waits until there is something to take, without the interpreter and without the lock.
    fn wait(&self, py: Python<'_>, timeout: Option<Duration>) {
        let watched = lock(&self.shared).as_ref().map(|state| match &state.bell {
            Some(bell) => Ok(bell.clone()),
            None => Err(state.engine.poller().clone()),
        });
        py.detach(|| match watched {
            Some(Ok(bell)) => wait_readable(bell.as_fd(), timeout),
            Some(Err(poller)) => wait_readable(poller.as_fd(), timeout),
            None => {}
        });
    }

    fn stop(&self) {
        let Some(state) = lock(&self.shared).take() else { return };
        *unpoisoned(&self.last_counters) = state.engine.counters();
        // The thread finds nothing left to turn.
        state.engine.poller().ring();
        drop(state);
        if let Some(thread) = unpoisoned(&self.thread).take() {
            let _ = thread.join();
        }
    }
}

#[pymethods]
impl PyEngine {
    #[new]
    #[pyo3(signature = (limits = None, *, has_own_thread = false))]
    fn new(limits: Option<&Bound<'_, PyLimits>>, has_own_thread: bool) -> PyResult<Self> {
        let limits = limits.map(|limits| limits.get().limits.clone()).unwrap_or_default();
        let engine = Engine::new(limits).map_err(to_error)?;
        let poller = engine.poller().clone();
        // Who empties an engine with its own thread waits for nothing else.
        let copied_bytes_per_turn = if has_own_thread { usize::MAX } else { COPIED_BYTES_PER_TURN };
        let bell = if has_own_thread { Some(Arc::new(Bell::new()?)) } else { None };
        let fd = bell.as_ref().map_or(engine.raw_fd(), |bell| bell.as_fd().as_raw_fd());
        let dropped = Dropped::ringing(bell.as_ref());
        let state = State { engine, bell: bell.clone(), is_rung: false, is_woken: false };
        let shared = Arc::new(Mutex::new(Some(state)));
        let thread = match bell {
            Some(bell) => {
                let shared = shared.clone();
                let builder = std::thread::Builder::new().name("skysail-transport".into());
                Some(builder.spawn(move || turn_for_ever(&shared, &poller, bell))?)
            }
            None => None,
        };
        Ok(Self {
            shared,
            fd,
            clock: Clock::new(),
            dropped,
            paths: Mutex::default(),
            thread: Mutex::new(thread),
            last_counters: Mutex::default(),
            copies: Mutex::default(),
            copied_bytes_per_turn,
        })
    }

    fn fileno(&self) -> PyResult<RawFd> {
        if lock(&self.shared).is_none() {
            return Err(PyValueError::new_err("the engine is closed"));
        }
        Ok(self.fd)
    }

    #[pyo3(
        signature = (address, *, unary = vec![], streams = vec![], shares_port = false, tls = None),
        text_signature = "($self, address, *, unary=(), streams=(), shares_port=False, tls=None)"
    )]
    fn listen(
        &self,
        py: Python<'_>,
        address: &str,
        unary: Vec<String>,
        streams: Vec<String>,
        shares_port: bool,
        tls: Option<&Bound<'_, PyServerTls>>,
    ) -> PyResult<u16> {
        let endpoint = Endpoint::parse(address).map_err(to_error)?;
        let names = unary.iter().chain(&streams).map(|path| PyString::intern(py, path).unbind());
        let before = unpoisoned(&self.paths).clone();
        let after = before.iter().map(|path| path.clone_ref(py)).chain(names).collect();
        // Before the engine knows of them: its calls may be taken by another thread.
        *unpoisoned(&self.paths) = Arc::new(after);
        let tls = tls.map(|tls| tls.get().tls.clone());
        let service = Service { unary: &unary, streams: &streams, tls };
        let port = self.with(|engine| engine.listen(&endpoint, shares_port, service));
        if !matches!(port, Some(Ok(_))) {
            *unpoisoned(&self.paths) = before;
        }
        port.ok_or_else(closed)?.map_err(to_error)
    }

    #[pyo3(signature = (endpoint, path, metadata = None, tls = None, *, acknowledges_itself = true))]
    fn open(
        &self,
        endpoint: &str,
        path: &str,
        metadata: Option<&Bound<'_, PyAny>>,
        tls: Option<&Bound<'_, PyClientTls>>,
        acknowledges_itself: bool,
    ) -> PyResult<u64> {
        let opening = Opening {
            endpoint: Endpoint::parse(endpoint).map_err(to_error)?,
            path,
            metadata: metadata.map(to_headers).transpose()?.unwrap_or_default(),
            tls: tls.map(|tls| tls.get().tls.clone()),
            acknowledges_itself,
        };
        self.with(|engine| engine.open(opening)).ok_or_else(closed)?.map_err(to_error)
    }

    #[pyo3(signature = (timeout_ms = 0))]
    fn take<'py>(&self, py: Python<'py>, timeout_ms: i64) -> PyResult<Batch<'py>> {
        // Taken out of the lock: a finalizer may come back here.
        let mut copies = std::mem::take(&mut *unpoisoned(&self.copies));
        let mut events = self.take_now().map_err(to_error)?;
        if events.is_empty() && copies.is_empty() && !self.take_woken() && timeout_ms != 0 {
            self.wait(py, u64::try_from(timeout_ms).ok().map(Duration::from_millis));
            events = self.take_now().map_err(to_error)?;
            self.take_woken();
        }
        self.dropped.clear(py);
        let paths = unpoisoned(&self.paths).clone();
        let batch =
            give(py, events, (&mut copies, self.copied_bytes_per_turn), &paths, &self.clock);
        if !copies.is_empty() {
            *unpoisoned(&self.copies) = copies;
            self.ring();
        }
        batch
    }

    fn wake(&self) {
        if let Some(State { bell: Some(bell), is_woken, .. }) = lock(&self.shared).as_mut() {
            *is_woken = true;
            bell.ring();
        }
    }

    #[pyo3(signature = (replies, messages = None, acknowledged = None))]
    fn flush(
        &self,
        py: Python<'_>,
        replies: &Bound<'_, PyAny>,
        messages: Option<&Bound<'_, PyAny>>,
        acknowledged: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        if self.shared.is_poisoned() {
            return Err(to_error(has_failed()));
        }
        let mut to_end = Vec::with_capacity(replies.len().unwrap_or(0));
        for item in replies.try_iter()? {
            to_end.push(to_reply(&item?, &self.dropped)?);
        }
        let mut to_send = Vec::new();
        if let Some(messages) = messages {
            for item in messages.try_iter()? {
                to_send.push(to_message(&item?, &self.dropped)?);
            }
        }
        let mut done_with: Vec<(u64, usize)> = Vec::new();
        if let Some(acknowledged) = acknowledged {
            for item in acknowledged.try_iter()? {
                done_with.push(item?.extract()?);
            }
        }
        self.with(|engine| {
            for (id, count) in done_with {
                engine.acknowledge(id, count);
            }
            for (id, framed) in to_send {
                engine.send(id, framed);
            }
            to_end.into_iter().for_each(|reply| engine.reply(reply));
        });
        self.dropped.clear(py);
        Ok(())
    }

    fn accept(&self, id: u64) {
        self.with(|engine| engine.accept_stream(id));
    }

    fn unsent(&self, id: u64) -> usize {
        lock(&self.shared).as_ref().map_or(0, |state| state.engine.num_unsent(id))
    }

    fn acknowledge(&self, id: u64, n_bytes: usize) {
        self.with(|engine| engine.acknowledge(id, n_bytes));
    }

    fn cancel(&self, id: u64) {
        self.with(|engine| engine.cancel(id));
    }

    fn finish_sending(&self, id: u64) {
        self.with(|engine| engine.finish_sending(id));
    }

    fn set_health(&self, service: &str, status: u32) -> PyResult<()> {
        if status > 127 {
            return Err(PyValueError::new_err("a status of health is from 0 to 127"));
        }
        self.with(|engine| engine.set_health(service, status));
        Ok(())
    }

    fn drain(&self) {
        self.with(Engine::drain);
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.stop());
        self.dropped.clear(py);
    }

    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let counters = lock(&self.shared).as_ref().map(|state| state.engine.counters());
        let counters = counters.unwrap_or_else(|| unpoisoned(&self.last_counters).clone());
        let dict = PyDict::new(py);
        for (name, count) in counters.named() {
            dict.set_item(name, count)?;
        }
        Ok(dict)
    }
}

impl Drop for PyEngine {
    fn drop(&mut self) {
        // The thread never waits for the interpreter, so joining it here cannot hang.
        self.stop();
    }
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn has_failed() -> io::Error {
    io::Error::other("the engine has failed by a mistake of its own")
}

fn closed() -> PyErr {
    PyRuntimeError::new_err("the engine is closed")
}

fn to_error(error: io::Error) -> PyErr {
    match error.raw_os_error() {
        // With the number, Python picks the subclass.
        Some(number) => PyOSError::new_err((number, error.to_string())),
        None if error.kind() == io::ErrorKind::InvalidInput => {
            PyValueError::new_err(error.to_string())
        }
        None => PyOSError::new_err(error.to_string()),
    }
}
