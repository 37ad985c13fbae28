//! What is said to an HTTP proxy, and what it answers: CONNECT, RFC 9110 section 9.3.6. Nothing here reads or writes.

use std::fmt::{self, Display};
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use dht::is_global;
use ipnet::IpNet;
use percent_encoding::percent_decode_str;
use url::{Host, Url};
use zeroize::Zeroizing;

/// The longest header of an answer, in bytes.
pub(crate) const LONGEST_ANSWER: usize = 8 * 1024;
/// Lines of one.
const MOST_LINES: usize = 64;
/// Characters of what a proxy says that are told.
const LONGEST_REASON: usize = 80;
/// For `http://host`, without a port.
const PORT: u16 = 80;

/// An HTTP proxy that is asked, with CONNECT, for what cannot be reached without it. Neither its text nor its debug output holds
/// the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    host: String,
    port: u16,
    /// What the header `Proxy-Authorization` says.
    login: Option<Zeroizing<String>>,
    except: Vec<Except>,
}

/// What is not asked of a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Except {
    All,
    Range(IpNet),
    /// One address, at one port if that is named.
    One(IpAddr, Option<u16>),
}

/// The text names no proxy that can be used. It does not repeat the text, which may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// No URL.
    #[error("write the proxy as http://HOST:PORT or http://USER:PASSWORD@HOST:PORT")]
    NoUrl,
    /// Another protocol than HTTP.
    #[error("the proxy has to be an http:// one; SOCKS, and TLS on the way to the proxy, are not spoken")]
    NotHttp,
}

impl FromStr for Proxy {
    type Err = ProxyError;

    fn from_str(text: &str) -> Result<Self, ProxyError> {
        let text = Zeroizing::new(if text.contains("://") { text.to_owned() } else { format!("http://{text}") });
        let url = Url::parse(&text).map_err(|_| ProxyError::NoUrl)?;
        if url.scheme() != "http" {
            return Err(ProxyError::NotHttp);
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(ProxyError::NoUrl);
        }
        let host = match url.host().ok_or(ProxyError::NoUrl)? {
            Host::Domain(name) => name.to_owned(),
            Host::Ipv4(ip) => ip.to_string(),
            Host::Ipv6(ip) => ip.to_string(),
        };
        let has_login = !url.username().is_empty() || url.password().is_some();
        let login = has_login.then(|| login(url.username(), url.password().unwrap_or_default()));
        Ok(Self { host, port: url.port().unwrap_or(PORT), login, except: Vec::new() })
    }
}

/// Basic, RFC 7617.
fn login(user: &str, password: &str) -> Zeroizing<String> {
    let mut pair = Zeroizing::new(percent_decode_str(user).collect::<Vec<u8>>());
    pair.push(b':');
    pair.extend(percent_decode_str(password));
    Zeroizing::new(BASE64_STANDARD.encode(&*pair))
}

impl Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let login = self.login.as_ref().map(|_| "…");
        f.debug_struct("Proxy").field("at", &self.to_string()).field("login", &login).finish_non_exhaustive()
    }
}

impl Proxy {
    /// Takes addresses out that are not to be asked for, as `no_proxy` lists them: addresses, ranges, and `*` for all. Names
    /// mean nothing here, since members are known by their addresses.
    #[must_use]
    pub fn except(mut self, list: &str) -> Self {
        self.except.extend(list.split([',', ' ']).filter_map(|word| except(word.trim())));
        self
    }

    /// Its host and port.
    pub(crate) fn place(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// Whether to ask it for this address: one that means the same everywhere, and is not taken out. A member may tell any
    /// address, and the proxy is not to knock for it at machines of the network that it stands in.
    pub(crate) fn serves(&self, to: SocketAddr) -> bool {
        let ip = to.ip().to_canonical();
        let is_out = |except: &Except| match except {
            Except::All => true,
            Except::Range(range) => range.contains(&ip),
            Except::One(one, port) => *one == ip && port.is_none_or(|port| port == to.port()),
        };
        is_global(ip) && !self.except.iter().any(is_out)
    }

    /// The request for a way to this address.
    pub(crate) fn request(&self, to: SocketAddr) -> Zeroizing<Vec<u8>> {
        let login = self.login.as_ref().map(|login| format!("Proxy-Authorization: Basic {}\r\n", **login));
        let login = Zeroizing::new(login.unwrap_or_default());
        Zeroizing::new(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n{}\r\n", *login).into_bytes())
    }

    /// Reads what has come of the answer so far: whether the way is open, or nothing as long as more has to come.
    pub(crate) fn answer(&self, to: SocketAddr, bytes: &[u8]) -> Result<Option<()>, Why> {
        let mut lines = [httparse::EMPTY_HEADER; MOST_LINES];
        let mut response = httparse::Response::new(&mut lines);
        let rest = match response.parse(bytes) {
            Ok(httparse::Status::Complete(end)) => bytes.len().saturating_sub(end),
            Ok(httparse::Status::Partial) if bytes.len() < LONGEST_ANSWER => return Ok(None),
            Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
                return Err(Why::TooLong);
            }
            Err(_) => return Err(Why::NoProxy),
        };
        let reason: String = response.reason.unwrap_or_default().chars().take(LONGEST_REASON).collect();
        match response.code {
            // The other end does not speak first, so what follows can be nothing of it.
            Some(200..=299) if rest > 0 => Err(Why::NoProxy),
            Some(200..=299) => Ok(Some(())),
            // Some proxies say 401 where it has to be 407.
            Some(401 | 407) if self.login.is_some() => Err(Why::WrongPassword),
            Some(401 | 407) => Err(Why::WantsPassword),
            Some(code) => Err(Why::Refused { to, code, reason }),
            None => Err(Why::NoProxy),
        }
    }

    pub(crate) fn refusal(&self, why: Why) -> Refusal {
        Refusal { proxy: self.to_string(), why }
    }
}

fn except(word: &str) -> Option<Except> {
    if word == "*" {
        return Some(Except::All);
    }
    if let Ok(range) = word.parse() {
        return Some(Except::Range(range));
    }
    if let Ok(ip) = word.parse::<IpAddr>() {
        return Some(Except::One(ip.to_canonical(), None));
    }
    word.parse::<SocketAddr>().ok().map(|addr| Except::One(addr.ip().to_canonical(), Some(addr.port())))
}

/// A proxy opens no way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the proxy at {proxy} {why}")]
pub(crate) struct Refusal {
    proxy: String,
    pub(crate) why: Why,
}

/// Why it does not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Why {
    #[error("wants a password: name it with --proxy http://USER:PASSWORD@HOST:PORT, or in https_proxy")]
    WantsPassword,
    #[error("does not take the user and password that were given for it")]
    WrongPassword,
    #[error("refuses {to}: {code} {reason}")]
    Refused { to: SocketAddr, code: u16, reason: String },
    #[error("answers as no HTTP proxy does")]
    NoProxy,
    #[error("answers with more than {LONGEST_ANSWER} bytes or {MOST_LINES} lines")]
    TooLong,
    #[error("hangs up without an answer")]
    HungUp,
    #[error("cannot be reached: {0}")]
    Away(String),
}

impl Why {
    /// Whether this is about the proxy, and not only about one address behind it.
    pub(crate) fn is_general(&self) -> bool {
        match self {
            Self::Refused { .. } => false,
            Self::WantsPassword
            | Self::WrongPassword
            | Self::NoProxy
            | Self::TooLong
            | Self::HungUp
            | Self::Away(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn proxy(text: &str) -> Proxy {
        text.parse().unwrap()
    }

    fn to() -> SocketAddr {
        "192.0.2.1:443".parse().unwrap()
    }

    fn why(proxy: &Proxy, answer: &[u8]) -> Why {
        proxy.answer(to(), answer).unwrap_err()
    }

    #[test]
    fn a_proxy_is_named_as_other_programs_name_it() {
        for (text, place) in [
            ("http://proxy:3128", "proxy:3128"),
            ("http://proxy:3128/", "proxy:3128"),
            ("http://192.0.2.9", "192.0.2.9:80"),
            ("proxy.example.org:8080", "proxy.example.org:8080"),
            ("http://user:pass@[2001:db8::1]:3128", "[2001:db8::1]:3128"),
        ] {
            assert_eq!(proxy(text).to_string(), place, "{text}");
        }
        for text in ["", "http://", "http://proxy:port", "http://proxy/path", "http://proxy:99999"] {
            assert_eq!(text.parse::<Proxy>(), Err(ProxyError::NoUrl), "{text}");
        }
        for text in ["socks5://user:secret@proxy:1080", "https://proxy"] {
            assert_eq!(text.parse::<Proxy>(), Err(ProxyError::NotHttp), "{text}");
        }
    }

    #[test]
    fn a_password_is_sent_and_not_shown() {
        let proxy = proxy("http://user:p%40ss@proxy:3128");
        let request = proxy.request(to());
        let request = std::str::from_utf8(&request).unwrap();
        assert_eq!(
            request,
            "CONNECT 192.0.2.1:443 HTTP/1.1\r\nHost: 192.0.2.1:443\r\nProxy-Authorization: Basic dXNlcjpwQHNz\r\n\r\n"
        );
        let shown = format!("{proxy} {proxy:?} {} {:?}", proxy.refusal(Why::HungUp), proxy.refusal(Why::HungUp));
        assert!(!shown.contains("ss") && !shown.contains("user") && !shown.contains("dXNl"), "{shown}");
        let quiet = "http://proxy:3128".parse::<Proxy>().unwrap().request("[2001:db8::1]:443".parse().unwrap());
        assert_eq!(&**quiet, b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n\r\n");
    }

    #[test]
    fn an_answer_is_read_once_all_of_it_is_there() {
        let proxy = proxy("http://proxy:3128");
        let answer = b"HTTP/1.1 200 Connection established\r\nProxy-Agent: tinyproxy/1.11.1\r\n\r\n";
        for end in 0..answer.len() {
            assert_eq!(proxy.answer(to(), &answer[..end]), Ok(None), "{end}");
        }
        assert_eq!(proxy.answer(to(), answer), Ok(Some(())));
        assert_eq!(proxy.answer(to(), b"HTTP/1.0 200\r\n\r\n"), Ok(Some(())));
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let (open, locked) = (proxy("http://proxy:3128"), proxy("http://u:p@proxy:3128"));
        let wants = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 4\r\n\r\nwhat";
        assert_eq!(why(&open, wants), Why::WantsPassword);
        assert_eq!(why(&locked, wants), Why::WrongPassword);
        assert_eq!(why(&locked, b"HTTP/1.0 401 Unauthorized\r\n\r\n"), Why::WrongPassword);
        assert!(why(&open, wants).to_string().contains("--proxy"));
        let refused = open.refusal(why(&open, b"HTTP/1.1 403 Filtered\r\n\r\n"));
        assert_eq!(refused.to_string(), "the proxy at proxy:3128 refuses 192.0.2.1:443: 403 Filtered");
        assert!(!refused.why.is_general());
        let long = [b"HTTP/1.1 500 ".as_slice(), &[b'x'; 1000], b"\r\n\r\n"].concat();
        assert!(why(&open, &long).to_string().len() < 150);
    }

    #[test]
    fn what_is_no_answer_is_none() {
        let proxy = proxy("http://proxy:3128");
        for answer in [b"SSH-2.0-OpenSSH_9.2\r\n".as_slice(), b"\x16\x03\x01", b"HTTP/1.1 2x0 OK\r\n\r\n"] {
            assert_eq!(why(&proxy, answer), Why::NoProxy);
        }
        assert_eq!(why(&proxy, b"HTTP/1.1 200 OK\r\n\r\nmore"), Why::NoProxy);
        let endless = [b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &[b'x'; LONGEST_ANSWER]].concat();
        assert_eq!(proxy.answer(to(), &endless[..LONGEST_ANSWER - 1]), Ok(None));
        assert_eq!(why(&proxy, &endless[..LONGEST_ANSWER]), Why::TooLong);
        let many = [b"HTTP/1.1 200 OK\r\n".to_vec(), b"a: b\r\n".repeat(MOST_LINES + 1), b"\r\n".to_vec()].concat();
        assert_eq!(why(&proxy, &many), Why::TooLong);
    }

    proptest! {
        #[test]
        fn no_answer_panics_or_is_waited_for_for_ever(
            head in "(HTTP/1\\.[01] ?[0-9]{0,4} ?)?",
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            cut in 0_usize..250,
        ) {
            let mut answer = [head.as_bytes(), &bytes].concat();
            answer.truncate(cut);
            let proxy = proxy("http://u:p@proxy:3128");
            let _ = proxy.answer(to(), &answer);
            answer.resize(LONGEST_ANSWER, b'a');
            prop_assert_ne!(proxy.answer(to(), &answer), Ok(None));
        }

        #[test]
        fn no_text_panics(text in "(http://)?\\PC{0,40}", list in "\\PC{0,40}") {
            if let Ok(proxy) = text.parse::<Proxy>() {
                let _ = (proxy.to_string(), proxy.except(&list).serves(to()));
            }
        }
    }

    #[test]
    fn what_no_proxy_names_is_not_asked_for() {
        let proxy =
            proxy("http://proxy:3128").except("localhost, .corp.example,198.51.100.0/24 203.0.113.7,203.0.113.8:443");
        let asks = |addr: &str| proxy.serves(addr.parse().unwrap());
        for addr in ["192.0.2.1:443", "203.0.113.8:4001", "[2001:db8::1]:443"] {
            assert!(asks(addr), "{addr}");
        }
        for addr in ["198.51.100.4:443", "[::ffff:198.51.100.4]:443", "203.0.113.7:1", "203.0.113.8:443"] {
            assert!(!asks(addr), "{addr}");
        }
        assert!(!"proxy:1".parse::<Proxy>().unwrap().except("*").serves(to()));
    }

    #[test]
    fn a_proxy_is_not_asked_for_machines_around_it() {
        for addr in
            ["10.1.2.3:443", "127.0.0.1:443", "169.254.169.254:80", "100.64.0.1:443", "[fd00::1]:443", "[::1]:443"]
        {
            assert!(!proxy("http://proxy:3128").serves(addr.parse().unwrap()), "{addr}");
        }
    }
}
