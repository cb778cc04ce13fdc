//! HTTP/1.1 as bytes: both ends of a connection, buffered, with nothing hidden and nothing repaired.

use bytes::{Buf, Bytes, BytesMut};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio_rustls::{client, server};

/// A byte stream over TCP.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {
    /// The TCP stream below.
    fn tcp(&self) -> &TcpStream;
}

impl Io for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Io for client::TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

impl Io for server::TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// Header fields as they stood on the wire, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Headers(pub(crate) Vec<(String, String)>);

impl Headers {
    /// Every value of a field; the name without regard to case.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let named = self.0.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// The only value of a field; `None` without one, a failed test with several.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} stands {} times: {self:?}", all.len());
        all.first().copied()
    }

    /// The comma-separated words of every value of a field, in lower case.
    pub(crate) fn words(&self, name: &str) -> Vec<String> {
        let all = self.all(name).join(",").to_ascii_lowercase();
        all.split(',').map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect()
    }

    /// Fails the test when any of these fields is there.
    pub(crate) fn assert_none_of(&self, names: &[&str]) {
        for name in names {
            assert!(self.all(name).is_empty(), "{name} must not be there: {self:?}");
        }
    }
}

/// A start line and the fields below it.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    /// The first line.
    pub(crate) start: String,
    /// The fields.
    pub(crate) headers: Headers,
}

impl Head {
    fn parse(block: &[u8]) -> Self {
        let text = String::from_utf8_lossy(block);
        let mut lines = text.split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let fields = lines.filter_map(|line| line.split_once(':'));
        let headers = fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
        Self { start, headers: Headers(headers.collect()) }
    }

    /// The status of a reply.
    pub(crate) fn status(&self) -> u16 {
        let code = self.start.split(' ').nth(1).and_then(|code| code.parse().ok());
        code.unwrap_or_else(|| panic!("not a status line: {:?}", self.start))
    }

    /// How the body of this message is delimited.
    pub(crate) fn framing(&self, without: Framing) -> Framing {
        if self.headers.words("transfer-encoding").iter().any(|word| word == "chunked") {
            return Framing::Chunked;
        }
        match self.headers.get("content-length").map(str::parse) {
            Some(Ok(length)) => Framing::Length(length),
            Some(Err(error)) => panic!("content-length: {error}: {self:?}"),
            None => without,
        }
    }
}

/// What is left of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// So many bytes.
    Length(u64),
    /// Chunks, the last one still to come.
    Chunked,
    /// All that comes until the other side closes.
    UntilClose,
}

/// One end of a connection.
pub(crate) struct Wire {
    reader: ReadHalf<Box<dyn Io>>,
    writer: WriteHalf<Box<dyn Io>>,
    buffer: BytesMut,
}

impl Wire {
    /// Takes over a connected stream.
    pub(crate) fn new(io: impl Io + 'static) -> Self {
        // Pieces must travel at once: a test that waits for one would wait for Nagle otherwise.
        io.tcp().set_nodelay(true).expect("a connected socket");
        let (reader, writer) = tokio::io::split(Box::new(io) as Box<dyn Io>);
        Self { reader, writer, buffer: BytesMut::new() }
    }

    /// The two directions, so that one can be written while the other is read.
    pub(crate) fn split(&mut self) -> (Reading<'_>, &mut WriteHalf<Box<dyn Io>>) {
        (Reading { reader: &mut self.reader, buffer: &mut self.buffer }, &mut self.writer)
    }

    /// The reading direction.
    pub(crate) fn reading(&mut self) -> Reading<'_> {
        self.split().0
    }

    /// Sends exactly these bytes.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_all(bytes).await?;
        self.writer.flush().await
    }

    /// Says that nothing more will be sent.
    pub(crate) async fn half_close(&mut self) -> io::Result<()> {
        self.writer.shutdown().await
    }

    /// Ends the connection with RST instead of FIN.
    pub(crate) fn reset(self) {
        let io = self.reader.unsplit(self.writer);
        io.tcp().set_zero_linger().expect("a connected socket");
    }
}

/// The reading direction of a [`Wire`]; every method may be dropped and called again.
pub(crate) struct Reading<'a> {
    reader: &'a mut ReadHalf<Box<dyn Io>>,
    buffer: &'a mut BytesMut,
}

impl Reading<'_> {
    async fn fill(&mut self) -> io::Result<bool> {
        if self.buffer.capacity() - self.buffer.len() < 4096 {
            self.buffer.reserve(65_536);
        }
        Ok(self.reader.read_buf(self.buffer).await? > 0)
    }

    async fn need(&mut self) -> io::Result<()> {
        if self.fill().await? { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Reads on until the other side has closed; what it sends meanwhile is kept.
    pub(crate) async fn closed(&mut self) {
        while let Ok(true) = self.fill().await {}
    }

    /// Waits until anything has arrived, or the other side has closed.
    pub(crate) async fn arrived(&mut self) {
        if self.buffer.is_empty() {
            self.fill().await.ok();
        }
    }

    /// Whether nothing is left unread.
    pub(crate) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The next start line with its fields; `None` where the other side closed instead.
    pub(crate) async fn head(&mut self) -> io::Result<Option<Head>> {
        loop {
            if let Some(end) = find(self.buffer, b"\r\n\r\n") {
                let block = self.buffer.split_to(end);
                self.buffer.advance(4);
                return Ok(Some(Head::parse(&block)));
            }
            if !self.fill().await? {
                return if self.is_empty() {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
        }
    }

    /// The next piece of a body (one chunk, or what has arrived); `None` at its proper end.
    pub(crate) async fn piece(&mut self, framing: &mut Framing) -> io::Result<Option<Bytes>> {
        match framing {
            Framing::Length(0) => Ok(None),
            Framing::Length(left) => {
                if self.buffer.is_empty() {
                    self.need().await?;
                }
                let take = self.buffer.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= take as u64;
                Ok(Some(self.buffer.split_to(take).freeze()))
            }
            Framing::UntilClose => {
                if self.buffer.is_empty() && !self.fill().await? {
                    *framing = Framing::Length(0);
                    return Ok(None);
                }
                Ok(Some(self.buffer.split().freeze()))
            }
            Framing::Chunked => {
                let chunk = self.chunk().await?;
                if chunk.is_empty() {
                    *framing = Framing::Length(0);
                    return Ok(None);
                }
                Ok(Some(chunk))
            }
        }
    }

    /// One whole chunk; the last one is empty, and trailer fields are not expected.
    async fn chunk(&mut self) -> io::Result<Bytes> {
        loop {
            if let Some(line) = find(self.buffer, b"\r\n") {
                let size = std::str::from_utf8(&self.buffer[..line]).ok();
                let size = size.and_then(|text| usize::from_str_radix(text, 16).ok());
                let size = size.ok_or(io::ErrorKind::InvalidData)?;
                let (start, end) = (line + 2, line + 2 + size);
                if self.buffer.len() >= end + 2 {
                    self.buffer.advance(start);
                    let data = self.buffer.split_to(size).freeze();
                    self.buffer.advance(2);
                    return Ok(data);
                }
            }
            self.need().await?;
        }
    }
}

/// Where `needle` begins.
pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(haystack, needle)
}
