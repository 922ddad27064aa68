//! TLS by rustls for servers and clients, optionally mutual. HTTP/2 must be agreed by ALPN.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::socket_io::SocketIo;

const ALPN_H2: &[u8] = b"h2";

/// An error of certificates or keys.
pub type TlsError = Box<dyn std::error::Error + Send + Sync>;

/// The certificate and client check of listeners; all clones are renewed together.
#[derive(Clone)]
pub struct ServerTls(Arc<RwLock<TlsAcceptor>>);

/// The trusted certificates and own certificate of links.
#[derive(Clone)]
pub struct ClientTls {
    connector: TlsConnector,
    server_name: Option<String>,
}

impl ServerTls {
    /// Serve with a certificate chain and its key. With `client_ca`, only clients with a
    /// certificate signed by it are served. All arguments are PEM.
    pub fn new(cert: &[u8], key: &[u8], client_ca: Option<&[u8]>) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(RwLock::new(acceptor(cert, key, client_ca)?))))
    }

    /// Use another certificate for new connections; an invalid one leaves the old one in place.
    pub fn renew(&self, cert: &[u8], key: &[u8], client_ca: Option<&[u8]>) -> Result<(), TlsError> {
        let renewed = acceptor(cert, key, client_ca)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = renewed;
        Ok(())
    }

    /// Begin the handshake of an accepted socket.
    pub fn accept(&self, io: SocketIo) -> tokio_rustls::Accept<SocketIo> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).accept(io)
    }
}

fn acceptor(cert: &[u8], key: &[u8], client_ca: Option<&[u8]>) -> Result<TlsAcceptor, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => builder.with_client_cert_verifier(
            WebPkiClientVerifier::builder_with_provider(Arc::new(read_roots(ca)?), provider)
                .build()?,
        ),
    };
    let key = PrivateKeyDer::from_pem_slice(key)?;
    let mut config = builder.with_single_cert(read_certificates(cert)?, key)?;
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

impl ClientTls {
    /// Trust the certificates of `ca`, present `own` if given, and expect `server_name` or else the
    /// host of the endpoint. All certificates are PEM.
    pub fn new(
        ca: &[u8],
        own: Option<(&[u8], &[u8])>,
        server_name: Option<String>,
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(read_roots(ca)?);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => builder.with_client_auth_cert(
                read_certificates(cert)?,
                PrivateKeyDer::from_pem_slice(key)?,
            )?,
        };
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        if let Some(name) = &server_name {
            ServerName::try_from(name.as_str())?;
        }
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), server_name })
    }

    /// Begin the handshake of a connected socket to `host`.
    pub fn connect(
        &self,
        io: SocketIo,
        host: Option<&str>,
    ) -> io::Result<tokio_rustls::Connect<SocketIo>> {
        let name = self.server_name.as_deref().or(host).unwrap_or("localhost").to_owned();
        let name = ServerName::try_from(name)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        Ok(self.connector.connect(name, io))
    }
}

fn read_certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>()?;
    if found.is_empty() {
        return Err("there is no certificate in the PEM".into());
    }
    Ok(found)
}

fn read_roots(pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(pem)? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

/// A byte stream, encrypted or plain.
pub enum Transport {
    /// Plain text.
    Plain(SocketIo),
    /// Encrypted text.
    Tls(Box<TlsStream<SocketIo>>),
}

impl Transport {
    /// Accept the end of a TLS handshake; fails unless the peer agreed on HTTP/2.
    pub fn from_tls(stream: TlsStream<SocketIo>) -> io::Result<Self> {
        if stream.get_ref().1.alpn_protocol() != Some(ALPN_H2) {
            return Err(io::Error::other("the peer did not ask for HTTP/2 by ALPN"));
        }
        Ok(Self::Tls(Box::new(stream)))
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_read(context, target),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, target),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
