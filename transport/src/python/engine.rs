//! The Python class `Engine`: inline, or with a thread that turns the engine.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::arguments::{to_headers, to_message, to_reply};
use super::copy_queue::{COPIED_BYTES_PER_TURN, CopyQueue};
use super::errors::{closed_error, internal_error, to_py_error};
use super::event_tuples::{Batch, Clock, build_batch};
use super::limits::PyLimits;
use super::release_queue::ReleaseQueue;
use super::shared_engine::{Shared, State, lock, run_engine_thread, unpoisoned};
use super::tls::{PyClientTls, PyServerTls};
use crate::engine::{Counters, Engine, Event, LinkRequest, Service};
use crate::net::poller::{Notifier, wait_readable};
use crate::net::sockets::Endpoint;

/// The class `Engine`; its contract is in the stub.
#[pyclass(frozen, name = "Engine", module = "skysail_transport")]
pub struct PyEngine {
    shared: Shared,
    fd: RawFd,
    clock: Clock,
    release_queue: Arc<ReleaseQueue>,
    paths: Mutex<Arc<Vec<Py<PyString>>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    last_counters: Mutex<Counters>,
    copy_queue: Mutex<CopyQueue>,
    copied_bytes_per_turn: usize,
}

impl PyEngine {
    // Run `work` on the engine and carry out the queued work; `None` if the engine is closed.
    fn with<T>(&self, work: impl FnOnce(&mut Engine) -> T) -> Option<T> {
        let mut state = lock(&self.shared);
        let state = state.as_mut()?;
        let result = work(&mut state.engine);
        state.engine.drive();
        state.notify();
        Some(result)
    }

    fn take_now(&self) -> io::Result<Vec<Event>> {
        if self.shared.is_poisoned() {
            drop(lock(&self.shared));
            return Err(internal_error());
        }
        lock(&self.shared).as_mut().map_or_else(|| Ok(Vec::new()), State::take)
    }

    // Make the engine's descriptor readable, because more events wait.
    fn notify(&self) {
        if let Some(state) = lock(&self.shared).as_ref() {
            state.engine.poller().notify();
        }
    }

    fn take_wake_request(&self) -> bool {
        lock(&self.shared)
            .as_mut()
            .is_some_and(|state| std::mem::take(&mut state.is_wake_requested))
    }

    // Wait for events, without the interpreter and without the lock.
    fn wait(&self, py: Python<'_>, timeout: Option<Duration>) {
        let watched = lock(&self.shared).as_ref().map(|state| match &state.notifier {
            Some(notifier) => Ok(notifier.clone()),
            None => Err(state.engine.poller().clone()),
        });
        py.detach(|| match watched {
            Some(Ok(notifier)) => wait_readable(notifier.as_fd(), timeout),
            Some(Err(poller)) => wait_readable(poller.as_fd(), timeout),
            None => {}
        });
    }

    fn stop(&self) {
        let Some(state) = lock(&self.shared).take() else { return };
        *unpoisoned(&self.last_counters) = state.engine.counters();
        // The thread finds no engine and ends.
        state.engine.poller().notify();
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
        let engine = Engine::new(limits).map_err(to_py_error)?;
        let poller = engine.poller().clone();
        // The thread that calls `take` on such an engine does no other work between.
        let copied_bytes_per_turn = if has_own_thread { usize::MAX } else { COPIED_BYTES_PER_TURN };
        let notifier = if has_own_thread { Some(Arc::new(Notifier::new()?)) } else { None };
        let fd = notifier.as_ref().map_or(engine.raw_fd(), |notifier| notifier.as_fd().as_raw_fd());
        let release_queue = ReleaseQueue::with_notifier(notifier.as_ref());
        let state = State {
            engine,
            notifier: notifier.clone(),
            is_notified: false,
            is_wake_requested: false,
        };
        let shared = Arc::new(Mutex::new(Some(state)));
        let thread = match notifier {
            Some(notifier) => {
                let shared = shared.clone();
                let builder = std::thread::Builder::new().name("skysail-transport".into());
                Some(builder.spawn(move || run_engine_thread(&shared, &poller, notifier))?)
            }
            None => None,
        };
        Ok(Self {
            shared,
            fd,
            clock: Clock::new(),
            release_queue,
            paths: Mutex::default(),
            thread: Mutex::new(thread),
            last_counters: Mutex::default(),
            copy_queue: Mutex::default(),
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
        let endpoint = Endpoint::parse(address).map_err(to_py_error)?;
        let names = unary.iter().chain(&streams).map(|path| PyString::intern(py, path).unbind());
        let before = unpoisoned(&self.paths).clone();
        let after = before.iter().map(|path| path.clone_ref(py)).chain(names).collect();
        // The paths are set first, because another thread may take calls at once.
        *unpoisoned(&self.paths) = Arc::new(after);
        let tls = tls.map(|tls| tls.get().tls.clone());
        let service = Service { unary: &unary, streams: &streams, tls };
        let port = self.with(|engine| engine.listen(&endpoint, shares_port, service));
        if !matches!(port, Some(Ok(_))) {
            *unpoisoned(&self.paths) = before;
        }
        port.ok_or_else(closed_error)?.map_err(to_py_error)
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
        let link = LinkRequest {
            endpoint: Endpoint::parse(endpoint).map_err(to_py_error)?,
            path,
            metadata: metadata.map(to_headers).transpose()?.unwrap_or_default(),
            tls: tls.map(|tls| tls.get().tls.clone()),
            acknowledges_itself,
        };
        self.with(|engine| engine.open(link)).ok_or_else(closed_error)?.map_err(to_py_error)
    }

    #[pyo3(signature = (timeout_ms = 0))]
    fn take<'py>(&self, py: Python<'py>, timeout_ms: i64) -> PyResult<Batch<'py>> {
        // The queue leaves the lock, because a finalizer may call the engine again.
        let mut copy_queue = std::mem::take(&mut *unpoisoned(&self.copy_queue));
        let mut events = self.take_now().map_err(to_py_error)?;
        if events.is_empty()
            && copy_queue.is_empty()
            && !self.take_wake_request()
            && timeout_ms != 0
        {
            self.wait(py, u64::try_from(timeout_ms).ok().map(Duration::from_millis));
            events = self.take_now().map_err(to_py_error)?;
            self.take_wake_request();
        }
        self.release_queue.clear(py);
        let paths = unpoisoned(&self.paths).clone();
        let batch = build_batch(
            py,
            events,
            (&mut copy_queue, self.copied_bytes_per_turn),
            &paths,
            &self.clock,
        );
        if !copy_queue.is_empty() {
            *unpoisoned(&self.copy_queue) = copy_queue;
            self.notify();
        }
        batch
    }

    fn wake(&self) {
        if let Some(State { notifier: Some(notifier), is_wake_requested, .. }) =
            lock(&self.shared).as_mut()
        {
            *is_wake_requested = true;
            notifier.notify();
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
            return Err(to_py_error(internal_error()));
        }
        let mut to_end = Vec::with_capacity(replies.len().unwrap_or(0));
        for item in replies.try_iter()? {
            to_end.push(to_reply(&item?, &self.release_queue)?);
        }
        let mut to_send = Vec::new();
        if let Some(messages) = messages {
            for item in messages.try_iter()? {
                to_send.push(to_message(&item?, &self.release_queue)?);
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
            for (id, frame) in to_send {
                engine.send(id, frame);
            }
            to_end.into_iter().for_each(|reply| engine.reply(reply));
        });
        self.release_queue.clear(py);
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
            return Err(PyValueError::new_err("a health status must be from 0 to 127"));
        }
        self.with(|engine| engine.set_health(service, status));
        Ok(())
    }

    fn drain(&self) {
        self.with(Engine::drain);
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.stop());
        self.release_queue.clear(py);
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
        // The thread never waits for the interpreter, so that joining it here cannot hang.
        self.stop();
    }
}
