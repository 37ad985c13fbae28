//! A length and that many bytes: how everything of ours goes over a stream.

use std::io;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Reads one frame of at most `limit` bytes; a longer one is an error before any of it is kept.
pub(crate) async fn read_frame(stream: &mut (impl AsyncRead + Unpin), limit: usize) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "frame is too long"));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// Writes one frame and flushes it.
pub(crate) async fn write_frame(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    let length =
        u32::try_from(bytes.len()).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "frame is too long"))?;
    // In one write, so that a small frame is one segment.
    let mut frame = Vec::with_capacity(bytes.len().saturating_add(4));
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(bytes);
    stream.write_all(&frame).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use futures::io::Cursor;

    use super::*;

    fn written(bytes: &[u8]) -> Vec<u8> {
        let mut out = Cursor::new(Vec::new());
        block_on(write_frame(&mut out, bytes)).unwrap();
        out.into_inner()
    }

    #[test]
    fn a_frame_is_its_length_and_its_bytes() {
        assert_eq!(written(b"abc"), b"\0\0\0\x03abc");
    }

    #[test]
    fn a_frame_at_the_limit_is_read_and_one_beyond_is_not() {
        let frame = written(&[7; 16]);
        assert_eq!(block_on(read_frame(&mut Cursor::new(&frame), 16)).unwrap(), [7; 16]);
        let error = block_on(read_frame(&mut Cursor::new(&frame), 15)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_frame_that_ends_early_is_an_error() {
        let frame = written(b"abc");
        for end in 0..frame.len() {
            let error = block_on(read_frame(&mut Cursor::new(&frame[..end]), 16)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{end}");
        }
    }
}
