//! News of the kernel's addresses and routes, so that a machine which is carried elsewhere notices at once.

use std::time::Duration;

use futures::StreamExt;
use rtnetlink::MulticastGroup;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// Changes come in bunches: an address goes, a route with it, another address comes.
const SETTLE: Duration = Duration::from_millis(100);
/// What goes on changing is told of all the same.
const LONGEST: Duration = Duration::from_secs(1);

const GROUPS: &[MulticastGroup] =
    &[MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr, MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route];

/// Changes whenever they do; its task runs on the current tokio runtime. Where the kernel tells nothing it never does, and whoever looks
/// every now and then will see.
pub(crate) fn watch() -> watch::Receiver<u64> {
    let (told, news) = watch::channel(0);
    match rtnetlink::new_multicast_connection(GROUPS) {
        Ok((connection, _, mut messages)) => {
            tokio::spawn(connection);
            tokio::spawn(async move {
                while messages.next().await.is_some() {
                    let more = async { while let Ok(Some(_)) = timeout(SETTLE, messages.next()).await {} };
                    tokio::select! { () = more => {}, () = sleep(LONGEST) => {} }
                    told.send_modify(|count| *count += 1);
                }
            });
        }
        Err(error) => tracing::warn!(%error, "the kernel tells nothing of new addresses"),
    }
    news
}
