//! TLS around each TCP connection, for networks that let nothing else pass. It is a wrapping and proves nothing: any
//! certificate is taken, and who is at the other end libp2p's Noise proves inside.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::Context;
use futures::{AsyncRead, AsyncWrite};
use futures_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureScheme};

/// Both sides of it.
#[derive(Clone)]
pub(crate) struct Tls {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
}

impl Tls {
    /// With a certificate of its own, which is a new one each time and names nobody.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let provider = Arc::new(provider());
        // Only 1.3: it shows no certificate to those on the way, and its first message is what browsers send.
        let versions = &[&rustls::version::TLS13];
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .context("TLS 1.3 is missing")?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(Arc::clone(&provider))))
            .with_no_client_auth();
        // A ticket is shown again in clear: whoever watches would know the machine by it.
        client.resumption = Resumption::disabled();
        let made = rcgen::generate_simple_self_signed(Vec::new()).context("failed to make a certificate")?;
        let key = PrivateKeyDer::try_from(made.key_pair.serialize_der()).map_err(anyhow::Error::msg)?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .context("TLS 1.3 is missing")?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .context("failed to use the certificate")?;
        server.send_tls13_tickets = 0;
        Ok(Self { connector: Arc::new(client).into(), acceptor: Arc::new(server).into() })
    }

    /// Wraps a connection that this node has made.
    pub(crate) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> io::Result<TlsStream<S>> {
        // Members are known by addresses, and an address is named to nobody.
        let nobody = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
        self.connector.connect(nobody, stream).await.map(TlsStream::Client)
    }

    /// Wraps a connection that came in.
    pub(crate) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> io::Result<TlsStream<S>> {
        self.acceptor.accept(stream).await.map(TlsStream::Server)
    }
}

/// Small keys only: with one for quantum computers the first message would be cut in two, and some of those that look at it
/// see only its beginning. What has to stay secret is sealed further in.
fn provider() -> CryptoProvider {
    let kx_groups = vec![aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1];
    CryptoProvider { kx_groups, ..aws_lc_rs::default_provider() }
}

/// Takes any certificate.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use futures::{AsyncReadExt, AsyncWriteExt};
    use libp2p::tcp::tokio::TcpStream;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn two_that_know_nothing_of_each_other_speak_tls() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = async {
            let (stream, _) = listener.accept().await.unwrap();
            let mut first = [0; 3];
            stream.peek(&mut first).await.unwrap();
            let mut stream = Tls::new().unwrap().accept(TcpStream(stream)).await.unwrap();
            let mut said = [0; 5];
            stream.read_exact(&mut said).await.unwrap();
            (first, said)
        };
        let client = async {
            let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
            let mut stream = Tls::new().unwrap().connect(TcpStream(stream)).await.unwrap();
            stream.write_all(b"hello").await.unwrap();
            stream.flush().await.unwrap();
            stream
        };
        let ((first, said), _open) = futures::join!(server, client);
        // A handshake record of TLS, RFC 8446 section 5.1.
        assert_eq!((first, &said), ([0x16, 0x03, 0x01], b"hello"));
    }
}
