//! The transport for TCP: each connection inside TLS, and through an HTTP proxy where it does not come about without.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{BoxFuture, Either, select};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, FutureExt};
use futures_rustls::TlsStream;
use libp2p::Multiaddr;
use libp2p::core::Transport;
use libp2p::core::transport::{DialOpts, ListenerId, TransportError, TransportEvent};
use libp2p::tcp::{self, tokio::TcpStream};
use tokio::sync::mpsc;

use crate::address::socket_addr_of;
use crate::proxy::{LONGEST_ANSWER, Proxy, Refusal, Why};
use crate::tls::Tls;

/// How long it is tried without the proxy alone.
const HEAD_START: Duration = Duration::from_secs(1);
/// How long the proxy itself, which is near, may take to let us in. How long it takes to reach others is limited by libp2p.
const PATIENCE: Duration = Duration::from_secs(4);
/// Refusals that nobody has heard of yet.
pub(crate) const MOST_REFUSALS: usize = 4;

/// TCP in TLS, perhaps through a proxy.
pub(crate) struct Wire {
    tcp: tcp::tokio::Transport,
    tls: Tls,
    proxy: Option<Way>,
}

/// The way through a proxy.
#[derive(Clone)]
struct Way {
    proxy: Arc<Proxy>,
    refusals: mpsc::Sender<Refusal>,
}

impl Wire {
    /// Refusals of the proxy go to `refusals`, as long as there is room.
    pub(crate) fn new(proxy: Option<Proxy>, refusals: mpsc::Sender<Refusal>) -> anyhow::Result<Self> {
        let proxy = proxy.map(|proxy| Way { proxy: Arc::new(proxy), refusals });
        Ok(Self { tcp: tcp::tokio::Transport::new(tcp::Config::default().nodelay(true)), tls: Tls::new()?, proxy })
    }
}

impl Transport for Wire {
    type Output = TlsStream<TcpStream>;
    type Error = io::Error;
    type ListenerUpgrade = BoxFuture<'static, io::Result<Self::Output>>;
    type Dial = BoxFuture<'static, io::Result<Self::Output>>;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
        self.tcp.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.tcp.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        let to = socket_addr_of(&address);
        let (tcp, tls) = (self.tcp.dial(address, options)?, self.tls.clone());
        let direct = async move { tls.connect(tcp.await?).await };
        let Some((way, to)) = self.proxy.clone().zip(to).filter(|(way, to)| way.proxy.serves(*to)) else {
            return Ok(direct.boxed());
        };
        let tls = self.tls.clone();
        let proxied = async move { tls.connect(way.open(to).await?).await };
        Ok(prefer(direct, proxied).boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        let tls = &self.tls.clone();
        let wrap = |tcp: <tcp::tokio::Transport as Transport>::ListenerUpgrade| {
            let tls = tls.clone();
            async move { tls.accept(tcp.await?).await }.boxed()
        };
        Pin::new(&mut self.tcp).poll(cx).map(|event| event.map_upgrade(wrap))
    }
}

/// The first of two ways that leads to something. The second one is taken when the first has failed or takes long.
async fn prefer<T>(
    first: impl Future<Output = io::Result<T>>,
    second: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    let (mut first, second) = (pin!(first), pin!(second));
    match tokio::time::timeout(HEAD_START, &mut first).await {
        Ok(Ok(done)) => return Ok(done),
        Ok(Err(error)) => return second.await.map_err(|other| both(&error, &other)),
        Err(_) => {}
    }
    match select(first, second).await {
        Either::Left((Ok(done), _)) | Either::Right((Ok(done), _)) => Ok(done),
        Either::Left((Err(error), second)) => second.await.map_err(|other| both(&error, &other)),
        Either::Right((Err(other), first)) => first.await.map_err(|error| both(&error, &other)),
    }
}

fn both(first: &io::Error, second: &io::Error) -> io::Error {
    io::Error::other(format!("{first}; {second}"))
}

impl Way {
    async fn open(&self, to: SocketAddr) -> io::Result<TcpStream> {
        self.try_open(to).await.map_err(|why| {
            let refusal = self.proxy.refusal(why);
            tracing::debug!(%refusal, "no way through the proxy");
            if refusal.why.is_general() {
                // Where some are waiting already, one more says nothing new.
                let _ = self.refusals.try_send(refusal.clone());
            }
            io::Error::other(refusal)
        })
    }

    async fn try_open(&self, to: SocketAddr) -> Result<TcpStream, Why> {
        let dial = tokio::time::timeout(PATIENCE, tokio::net::TcpStream::connect(self.proxy.place()));
        let dialled = dial.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let stream = dialled.and_then(|stream| stream.set_nodelay(true).map(|()| stream));
        let mut stream = TcpStream(stream.map_err(|error| Why::Away(error.to_string()))?);
        ask(&self.proxy, to, &mut stream).await?;
        Ok(stream)
    }
}

/// Asks over a connection with a proxy for a way, and waits for it.
async fn ask<S: AsyncRead + AsyncWrite + Unpin>(proxy: &Proxy, to: SocketAddr, stream: &mut S) -> Result<(), Why> {
    stream.write_all(&proxy.request(to)).await.map_err(|_| Why::HungUp)?;
    stream.flush().await.map_err(|_| Why::HungUp)?;
    let mut answer = vec![0; LONGEST_ANSWER];
    let mut length = 0;
    loop {
        let read = stream.read(&mut answer[length..]).await.unwrap_or(0);
        length += read;
        match proxy.answer(to, &answer[..length])? {
            Some(()) => return Ok(()),
            // An answer of full length is never one of which more has to come.
            None if read == 0 => return Err(Why::HungUp),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    fn failed(what: &str) -> io::Result<u8> {
        Err(io::Error::other(what.to_owned()))
    }

    #[tokio::test]
    async fn the_proxy_is_for_what_fails_or_takes_long_without_it() {
        assert_eq!(prefer(ready(Ok(1)), async { panic!("there was no need") }).await.unwrap(), 1);
        assert_eq!(prefer(ready(failed("refused")), ready(Ok(2))).await.unwrap(), 2);
        assert_eq!(prefer(pending(), ready(Ok(2))).await.unwrap(), 2);
        let late = async {
            tokio::time::sleep(HEAD_START * 2).await;
            Ok(1)
        };
        assert_eq!(prefer(late, ready(failed("403"))).await.unwrap(), 1);
        let error = prefer(ready(failed("refused")), ready(failed("403"))).await.unwrap_err().to_string();
        assert_eq!(error, "refused; 403");
    }

    /// What comes of asking a proxy that answers with these parts and then hangs up.
    async fn answered(parts: &'static [&'static [u8]]) -> Result<(), Why> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let proxy: Proxy = format!("http://{addr}").parse().unwrap();
        let to = "192.0.2.1:443".parse().unwrap();
        let asked = proxy.request(to).to_vec();
        let server = async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; asked.len()];
            stream.read_exact(&mut request).await.unwrap();
            assert_eq!(request, asked);
            for part in parts {
                // Whoever has heard enough does not wait for the rest.
                let _ = stream.write_all(part).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let client = async {
            let mut stream = TcpStream(tokio::net::TcpStream::connect(addr).await.unwrap());
            ask(&proxy, to, &mut stream).await
        };
        futures::join!(server, client).1
    }

    #[tokio::test]
    async fn an_answer_may_come_in_parts_but_has_to_end() {
        assert_eq!(answered(&[b"HTTP/1.1 200 OK\r\n", b"Via: x\r\n", b"\r\n"]).await, Ok(()));
        assert_eq!(answered(&[b"HTTP/1.1 200 OK\r\n"]).await, Err(Why::HungUp));
        assert_eq!(answered(&[]).await, Err(Why::HungUp));
        assert_eq!(answered(&[b"HTTP/1.1 200 OK\r\nX: ", &[b'x'; LONGEST_ANSWER]]).await, Err(Why::TooLong));
    }
}
