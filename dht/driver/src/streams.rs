//! Datagrams as parts of streams: the way for a network that lets no UDP pass.
//!
//! Each side writes to the stream that it opened itself, and reads from those that the peer opened. A stream is a row of
//! frames: a length of two bytes, big-endian, and that many bytes of one datagram, which are sealed for themselves. What the
//! writer has no room for is dropped, as a full queue of a router would; nothing here waits for the network.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::io::BufReader;
use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::PeerId;
use libp2p::swarm::{ConnectionId, Stream};
use tokio::sync::mpsc;

use crate::address::{is_tcp, multiaddrs_of, socket_addr_of};
use crate::config::Clocks;
use crate::driver::Driver;
use crate::links::MadeBy;
use crate::stream;

/// Datagrams that wait for one stream: a third of a megabyte of full-sized ones, 30 ms at 100 Mbit/s.
const QUEUE: usize = 256;
/// Streams that are asked for at one time.
const MOST_WANTED: usize = 64;
/// Streams of one peer that are read from. It opens one; others may still be read to their end.
const MOST_READ: usize = 4;
/// A stream on which nothing goes is closed after this long, and opened again when needed.
const IDLE: Duration = Duration::from_secs(60);
/// Bytes that are read, or written, at once.
const CHUNK: usize = 32 * 1024;

/// What to do with a datagram that came in a stream of this peer. Called on the runtime's threads; must not wait.
pub type Deliver = Arc<dyn Fn(PeerId, &mut [u8]) + Send + Sync>;

/// Sends datagrams to peers that the overlay has a connection with.
#[derive(Clone)]
pub struct Streams {
    queues: Arc<Mutex<BTreeMap<PeerId, mpsc::Sender<Vec<u8>>>>>,
    wanted: mpsc::Sender<Wanted>,
}

/// Why a datagram did not go into a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotSent {
    /// More wait than may.
    Full,
    /// Too long for its length of two bytes.
    TooLong,
    /// Too many streams are being opened, or the driver has ended.
    NoStream,
}

/// A stream that is to be opened, and what is to go into it.
struct Wanted {
    peer: PeerId,
    queue: mpsc::Receiver<Vec<u8>>,
}

/// The driver's end.
pub struct StreamServer {
    wanted: mpsc::Receiver<Wanted>,
    deliver: Deliver,
}

impl Streams {
    /// Both ends. The second belongs into [`DriverConfig::streams`](crate::DriverConfig::streams).
    pub fn new(deliver: Deliver) -> (Self, StreamServer) {
        let (sender, wanted) = mpsc::channel(MOST_WANTED);
        (Self { queues: Arc::default(), wanted: sender }, StreamServer { wanted, deliver })
    }

    /// Puts one datagram into the stream to a peer, and opens one if there is none.
    ///
    /// # Errors
    /// The datagram is dropped, and why.
    pub fn send(&self, to: PeerId, datagram: &[u8]) -> Result<(), NotSent> {
        if u16::try_from(datagram.len()).is_err() {
            return Err(NotSent::TooLong);
        }
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queues.get(&to) {
            match queue.try_send(datagram.to_vec()) {
                Ok(()) => return Ok(()),
                Err(mpsc::error::TrySendError::Full(_)) => return Err(NotSent::Full),
                Err(mpsc::error::TrySendError::Closed(_)) => {}
            }
        }
        queues.retain(|_, queue| !queue.is_closed());
        let (queue, receiver) = mpsc::channel(QUEUE);
        queue.try_send(datagram.to_vec()).map_err(|_| NotSent::Full)?;
        self.wanted.try_send(Wanted { peer: to, queue: receiver }).map_err(|_| NotSent::NoStream)?;
        queues.insert(to, queue);
        Ok(())
    }
}

/// Streams as the driver sees them.
pub(crate) struct Pipes {
    server: Option<StreamServer>,
    /// What is to go into streams that have been asked for, in order.
    asked: BTreeMap<ConnectionId, Vec<mpsc::Receiver<Vec<u8>>>>,
    /// What waits for a connection by TCP, and with whom.
    dialling: BTreeMap<ConnectionId, Asked>,
    reading: Arc<Mutex<BTreeMap<PeerId, usize>>>,
}

impl Pipes {
    pub(crate) fn new(server: Option<StreamServer>) -> Self {
        Self { server, asked: BTreeMap::new(), dialling: BTreeMap::new(), reading: Arc::default() }
    }

    /// The next stream that is wanted.
    pub(crate) async fn wanted(&mut self) -> Asked {
        let wanted = match &mut self.server {
            Some(server) => server.wanted.recv().await,
            None => None,
        };
        match wanted {
            Some(Wanted { peer, queue }) => Asked { peer, queue },
            // Nobody asks any more, which is no event.
            None => std::future::pending().await,
        }
    }

    /// A connection has ended: what waited for a stream of it is lost.
    pub(crate) fn closed(&mut self, connection: ConnectionId) {
        self.asked.remove(&connection);
        self.dialling.remove(&connection);
    }

    fn next(&mut self, connection: ConnectionId) -> Option<mpsc::Receiver<Vec<u8>>> {
        let asked = self.asked.get_mut(&connection)?;
        let next = if asked.is_empty() { None } else { Some(asked.remove(0)) };
        if asked.is_empty() {
            self.asked.remove(&connection);
        }
        next
    }
}

/// A stream that somebody wants.
pub(crate) struct Asked {
    peer: PeerId,
    queue: mpsc::Receiver<Vec<u8>>,
}

impl<C: Clocks> Driver<C> {
    /// Asks for a stream. Without a connection the queue ends, and its writer learns it at once. Where the one that stands goes
    /// by UDP, which is what probably has ceased to pass, TCP is tried first: both have the same port.
    pub(crate) fn open_stream(&mut self, asked: Asked) {
        let Some((connection, link)) = self.links.for_streams(asked.peer) else { return };
        let ours = link.made_by == MadeBy::Us && !is_tcp(&link.address);
        let tcp = socket_addr_of(&link.address).filter(|_| ours).map(|addr| multiaddrs_of(addr)[1].clone());
        match tcp.and_then(|tcp| self.start_dial(asked.peer, vec![tcp])) {
            Some(dialling) => {
                self.pipes.dialling.insert(dialling, asked);
            }
            None => self.ask_for_stream(connection, asked),
        }
    }

    fn ask_for_stream(&mut self, connection: ConnectionId, Asked { peer, queue }: Asked) {
        self.pipes.asked.entry(connection).or_default().push(queue);
        self.swarm.behaviour_mut().stream.inner().open(peer, connection);
    }

    /// A connection that this node has made is open.
    pub(crate) fn stream_over_tcp(&mut self, peer: PeerId, connection: ConnectionId) {
        if let Some(asked) = self.pipes.dialling.remove(&connection).filter(|asked| asked.peer == peer) {
            self.ask_for_stream(connection, asked);
        }
    }

    /// A connection could not be made: by whatever there is, then.
    pub(crate) fn stream_without_tcp(&mut self, connection: ConnectionId) {
        let Some(asked) = self.pipes.dialling.remove(&connection) else { return };
        if let Some((connection, _)) = self.links.for_streams(asked.peer) {
            self.ask_for_stream(connection, asked);
        }
    }

    pub(crate) fn handle_stream_event(&mut self, event: stream::Event) {
        match event {
            stream::Event::Opened { connection, stream } => {
                if let Some(queue) = self.pipes.next(connection) {
                    tokio::spawn(write(stream, queue));
                }
            }
            stream::Event::Refused { connection } => drop(self.pipes.next(connection)),
            stream::Event::Came { peer, stream } => self.read_from(peer, stream),
        }
    }

    fn read_from(&self, peer: PeerId, stream: Stream) {
        let Some(server) = &self.pipes.server else { return };
        let Some(place) = Place::take(&self.pipes.reading, peer) else {
            tracing::debug!(%peer, "too many streams of one peer");
            return;
        };
        let deliver = Arc::clone(&server.deliver);
        tokio::spawn(async move {
            let ended = read(stream, |datagram| deliver(peer, datagram)).await;
            tracing::debug!(%peer, ?ended, "a stream of datagrams ended");
            drop(place);
        });
    }
}

/// One of the streams that a peer may have us read.
struct Place {
    reading: Arc<Mutex<BTreeMap<PeerId, usize>>>,
    peer: PeerId,
}

impl Place {
    fn take(reading: &Arc<Mutex<BTreeMap<PeerId, usize>>>, peer: PeerId) -> Option<Self> {
        let mut counts = reading.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(peer).or_default();
        if *count >= MOST_READ {
            return None;
        }
        *count += 1;
        Some(Self { reading: Arc::clone(reading), peer })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.peer);
            }
        }
    }
}

/// Writes what is in the queue, as much as there is at once, until nothing comes for a while or the stream ends.
async fn write(mut stream: impl futures::AsyncWrite + Unpin, mut queue: mpsc::Receiver<Vec<u8>>) {
    let mut bytes = Vec::with_capacity(CHUNK);
    while let Ok(Some(first)) = tokio::time::timeout(IDLE, queue.recv()).await {
        bytes.clear();
        append(&mut bytes, &first);
        while bytes.len() < CHUNK
            && let Ok(next) = queue.try_recv()
        {
            append(&mut bytes, &next);
        }
        if let Err(error) = send(&mut stream, &bytes).await {
            tracing::debug!(%error, "a stream of datagrams broke");
            return;
        }
    }
    let _ = stream.close().await;
}

async fn send(stream: &mut (impl futures::AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

fn append(bytes: &mut Vec<u8>, datagram: &[u8]) {
    if let Ok(length) = u16::try_from(datagram.len()) {
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(datagram);
    }
}

/// Reads datagrams until the stream ends.
async fn read(stream: impl futures::AsyncRead + Unpin, mut deliver: impl FnMut(&mut [u8])) -> io::Result<()> {
    let mut stream = BufReader::with_capacity(CHUNK, stream);
    let mut datagram = Vec::new();
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length).await?;
        datagram.resize(usize::from(u16::from_be_bytes(length)), 0);
        stream.read_exact(&mut datagram).await?;
        deliver(&mut datagram);
    }
}

#[cfg(test)]
mod tests {
    use futures::io::Cursor;

    use super::*;

    async fn read_all(bytes: &[u8]) -> (Vec<Vec<u8>>, io::ErrorKind) {
        let mut got = Vec::new();
        let ended = read(Cursor::new(bytes), |datagram| got.push(datagram.to_vec())).await;
        (got, ended.unwrap_err().kind())
    }

    #[tokio::test]
    async fn what_is_written_is_read_again() {
        let (sender, queue) = mpsc::channel(QUEUE);
        let datagrams = [vec![1; 48], vec![], vec![2; 65_535], vec![3; 1500]];
        for datagram in &datagrams {
            sender.send(datagram.clone()).await.unwrap();
        }
        drop(sender);
        let mut bytes = Cursor::new(Vec::new());
        write(&mut bytes, queue).await;
        let bytes = bytes.into_inner();
        assert_eq!(bytes[..4], [0, 48, 1, 1]);
        assert_eq!(read_all(&bytes).await, (datagrams.to_vec(), io::ErrorKind::UnexpectedEof));
        let (got, ended) = read_all(&bytes[..bytes.len() - 1]).await;
        assert_eq!((got.len(), ended), (3, io::ErrorKind::UnexpectedEof), "half a datagram is none");
    }

    #[tokio::test]
    async fn a_queue_is_bounded_and_a_dead_one_is_replaced() {
        let (streams, mut server) = Streams::new(Arc::new(|_, _| {}));
        let peer = PeerId::random();
        let sent = (0..1000).filter(|_| streams.send(peer, &[1]).is_ok()).count();
        assert_eq!(sent, QUEUE);
        assert_eq!(streams.send(peer, &[1]), Err(NotSent::Full));
        assert_eq!(streams.send(peer, &[0; 65_536]), Err(NotSent::TooLong));
        drop(server.wanted.recv().await.unwrap());
        assert_eq!(streams.send(peer, &[2]), Ok(()));
        let mut wanted = server.wanted.recv().await.unwrap();
        assert_eq!((wanted.peer, wanted.queue.recv().await), (peer, Some(vec![2])));
        let others = (0..1000).filter(|_| streams.send(PeerId::random(), &[1]).is_ok()).count();
        assert_eq!(others, MOST_WANTED);
        drop(server);
        assert_eq!(streams.send(PeerId::random(), &[1]), Err(NotSent::NoStream));
    }

    #[test]
    fn a_peer_has_so_many_streams_read_and_gets_its_places_back() {
        let reading = Arc::default();
        let peer = PeerId::random();
        let places: Vec<_> = (0..10).filter_map(|_| Place::take(&reading, peer)).collect();
        assert_eq!(places.len(), MOST_READ);
        assert!(Place::take(&reading, PeerId::random()).is_some());
        drop(places);
        assert!(reading.lock().unwrap().is_empty());
    }
}
