//! Listening sockets: one per listener and data thread, so that each thread accepts on its own.

use std::{collections::HashMap, io, net::SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

use crate::{config::Config, proxy::StartError};

/// Connections the kernel keeps until they are accepted.
const BACKLOG: i32 = 1024;

/// By which a listener is known again after a reload: its address, and for port 0 which of those it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ListenerKey {
    pub(crate) address: SocketAddr,
    pub(crate) nth: usize,
}

/// The sockets of one thread.
pub(crate) type Sockets = Vec<(ListenerKey, std::net::TcpListener)>;

/// Where each listener really listens: port 0 is chosen once and shared.
pub(crate) type Addresses = HashMap<ListenerKey, SocketAddr>;

/// The keys of the listeners, in their order.
pub(crate) fn listener_keys(config: &Config) -> Vec<ListenerKey> {
    let mut keys: Vec<ListenerKey> = Vec::with_capacity(config.listeners.len());
    for listener in &config.listeners {
        let nth = keys.iter().filter(|key| key.address == listener.address).count();
        keys.push(ListenerKey { address: listener.address, nth });
    }
    keys
}

/// Binds what is not in `bound` yet, for `threads` threads; either all or nothing.
pub(crate) fn bind_missing(
    keys: &[ListenerKey],
    threads: usize,
    bound: &Addresses,
) -> Result<(Addresses, Vec<Sockets>), StartError> {
    let mut addresses = Addresses::new();
    let mut sockets: Vec<Sockets> = (0..threads).map(|_| Vec::new()).collect();
    for key in keys {
        if let Some(address) = bound.get(key) {
            addresses.insert(*key, *address);
            continue;
        }
        let mut address = key.address;
        if address.port() != 0 {
            // with SO_REUSEPORT a second proxy would silently share the port: ask without it first
            std::net::TcpListener::bind(address).map_err(bind_error(address))?;
        }
        for of_thread in &mut sockets {
            let socket = bind(address).map_err(bind_error(address))?;
            address = socket.local_addr().map_err(bind_error(address))?;
            of_thread.push((*key, socket));
        }
        addresses.insert(*key, address);
    }
    Ok((addresses, sockets))
}

/// The admin address has one socket, for the control thread.
pub(crate) fn bind_admin(address: SocketAddr) -> Result<std::net::TcpListener, StartError> {
    let listener = std::net::TcpListener::bind(address).map_err(bind_error(address))?;
    listener.set_nonblocking(true).map_err(bind_error(address))?;
    Ok(listener)
}

/// Binds so that several threads can listen on one port.
fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bind_error(address: SocketAddr) -> impl Fn(io::Error) -> StartError {
    move |source| StartError::Bind { address, source }
}
