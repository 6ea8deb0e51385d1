//! [`Slot`]: one listener of one data thread: it accepts, and knows which configuration is in force.
//!
//! A reload changes what the slot points to, so a connection that lasts gets the new routes with its
//! next request; a listener that is gone from the file stops accepting and its connections end.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

#[cfg(target_os = "linux")]
use socket2::{SockFilter, SockRef};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    counters::add,
    traffic::{client, open::OpenConnections, serve::Worker},
};

/// When accepting fails (no file descriptor left), the time until it is tried again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where connections of one listener find what they obey.
pub(crate) struct Slot {
    current: RefCell<(Rc<Worker>, usize)>,
    open: Rc<OpenConnections>,
    /// Handshakes of TLS under way.
    pub(crate) handshakes: Cell<usize>,
    /// Cancelled when clients are told to go.
    draining: CancellationToken,
    /// Cancelled when nobody is let in any more; later than that, where others have to hear of it first.
    pub(crate) closing: CancellationToken,
    /// Cancelled when it drains, or asks for another proof than the connections of then were let in by.
    era: RefCell<CancellationToken>,
}

impl Slot {
    /// `index` is the listener's place in the worker's configuration.
    pub(crate) fn new(
        worker: Rc<Worker>,
        index: usize,
        open: Rc<OpenConnections>,
        draining: CancellationToken,
        closing: CancellationToken,
    ) -> Rc<Self> {
        let era = RefCell::new(draining.child_token());
        Rc::new(Self { current: RefCell::new((worker, index)), open, handshakes: Cell::new(0), draining, closing, era })
    }

    /// From now on requests obey `worker`.
    pub(crate) fn set(&self, worker: Rc<Worker>, index: usize) {
        let (before, known) = self.current.replace((worker.clone(), index));
        let (now, before) = (&worker.workload.security, &before.workload.security);
        if !now.lets_in_as(index, before, known) {
            self.era.replace(self.draining.child_token()).cancel();
        }
    }

    /// What connections that are accepted now live in.
    pub(crate) fn era(&self) -> CancellationToken {
        self.era.borrow().clone()
    }

    /// Ends it although the proxy goes on: its configuration has no such listener any more.
    pub(crate) fn close(&self) {
        self.draining.cancel();
        self.closing.cancel();
    }

    /// What a request that comes now obeys.
    pub(crate) fn current(&self) -> (Rc<Worker>, usize) {
        self.current.borrow().clone()
    }

    /// Accepts until the slot closes.
    pub(crate) async fn accept(self: Rc<Self>, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.closing.cancelled() => return self.sweep(listener),
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, client)) => self.clone().serve(stream, client),
                Err(error) => {
                    warn!(%error, "cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Takes what the kernel has accepted already, which would be reset with the socket.
    fn sweep(self: Rc<Self>, listener: TcpListener) {
        let Ok(listener) = listener.into_std() else { return };
        hide(&listener);
        while let Ok((stream, client)) = listener.accept() {
            if stream.set_nonblocking(true).is_ok()
                && let Ok(stream) = TcpStream::from_std(stream)
            {
                self.clone().serve(stream, client);
            }
        }
    }

    fn serve(self: Rc<Self>, stream: TcpStream, client: SocketAddr) {
        let (worker, _) = self.current();
        if worker.workload.memory.is_full() {
            return add(&worker.workload.tally.overloaded, 1);
        }
        let Some(open) = self.open.enter(client.ip(), &worker.workload) else {
            // one too many is closed at once: a client sees that, and a backlog would only hide it
            return add(&worker.workload.tally.connections_refused, 1);
        };
        // small answers must not wait for more to fill a packet; a socket that refuses still works
        let _ = stream.set_nodelay(true);
        worker.tasks.spawn_local(client::serve(self, stream, client.ip(), open));
    }
}

/// Drops what arrives at a socket that is about to be closed, so that nobody is let in between the last look at it and its
/// end, to be reset. Who connects then is not answered, asks again, and hears that nobody is here. (Who has half of a handshake behind
/// him is still reset: clients far away, and those who did not hear of the drain.)
#[cfg(target_os = "linux")]
fn hide(listener: &std::net::TcpListener) {
    /// `BPF_RET | BPF_K`: keep so many bytes of the packet.
    const RETURN: u16 = 0x06;
    // without it there is a gap of microseconds
    let _ = SockRef::from(listener).attach_filter(&[SockFilter::new(RETURN, 0, 0, 0)]);
}

#[cfg(not(target_os = "linux"))]
fn hide(_: &std::net::TcpListener) {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{io::ErrorKind, net};

    use super::*;

    /// Found under load: a connection that began between the last look and the end of the socket was reset.
    #[test]
    fn who_comes_when_a_socket_is_about_to_close_is_not_let_in_to_be_reset() {
        let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let _in_time = net::TcpStream::connect(address).unwrap();
        hide(&listener);
        let late = net::TcpStream::connect_timeout(&address, Duration::from_millis(200));
        assert_eq!(late.unwrap_err().kind(), ErrorKind::TimedOut);
        assert!(listener.accept().is_ok(), "who was there is served");
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(listener);
        assert_eq!(net::TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
}
