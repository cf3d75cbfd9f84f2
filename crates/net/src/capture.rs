//! Captures: reading and writing pcap files.

use std::{
    fs::File,
    io::{BufReader, BufWriter, Read, Write},
    path::Path,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use pcap_file::{
    DataLink, PcapError, TsResolution,
    pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter},
};
use ring3_objects::Error;
use ring3_uapi::Errno;

/// Longest packet a capture may hold; longer ones are refused, not allocated.
const PACKET_BYTES_MAX: usize = 0xffff;

/// One packet of a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapturedPacket {
    /// Since the epoch.
    pub time: Duration,
    /// Bytes from the link header on, as far as they were captured.
    pub data: Vec<u8>,
}

/// Reads the packets of a pcap file of Ethernet frames.
pub struct CaptureReader<R: Read> {
    name: String,
    reader: PcapReader<R>,
}

impl CaptureReader<BufReader<File>> {
    /// Opens a file.
    ///
    /// # Errors
    /// The file cannot be read, is no pcap file, or holds no Ethernet frames; the message names it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|error| io_error(&name, &error))?;
        CaptureReader::new(BufReader::new(file), &name)
    }
}

impl<R: Read> CaptureReader<R> {
    /// Reads from anything; `name` is used in messages.
    ///
    /// # Errors
    /// EINVAL: no pcap header, or no Ethernet frames.
    pub fn new(source: R, name: &str) -> Result<Self, Error> {
        let reader = PcapReader::new(source).map_err(|error| pcap_error(name, &error))?;
        let link = reader.header().datalink;
        if link != DataLink::ETHERNET {
            return Err(Error::new(
                Errno::EINVAL,
                format!("{name}: link type {link:?}, expected ETHERNET"),
            ));
        }
        Ok(CaptureReader {
            name: name.to_owned(),
            reader,
        })
    }

    /// The next packet, `None` at the end. Packets of which only a part was captured are that part.
    ///
    /// # Errors
    /// EINVAL: a truncated or impossible record.
    pub fn next_packet(&mut self) -> Result<Option<CapturedPacket>, Error> {
        let nanos_per_tick = match self.reader.header().ts_resolution {
            TsResolution::MicroSecond => 1000,
            TsResolution::NanoSecond => 1,
        };
        // The checked form of the library refuses packets longer than the snap length, which is what a snap length is for.
        match self.reader.next_raw_packet() {
            None => Ok(None),
            Some(Err(error)) => Err(pcap_error(&self.name, &error)),
            Some(Ok(packet)) if packet.data.len() > PACKET_BYTES_MAX => Err(Error::new(
                Errno::EINVAL,
                format!(
                    "{}: a packet of {} bytes, at most {PACKET_BYTES_MAX}",
                    self.name,
                    packet.data.len()
                ),
            )),
            Some(Ok(packet)) => {
                let nanos = u64::from(packet.ts_frac) * nanos_per_tick;
                let time =
                    Duration::from_secs(u64::from(packet.ts_sec)) + Duration::from_nanos(nanos);
                Ok(Some(CapturedPacket {
                    time,
                    data: packet.data.into_owned(),
                }))
            }
        }
    }
}

/// Writes a pcap file of Ethernet frames.
pub struct CaptureWriter<W: Write> {
    name: String,
    writer: PcapWriter<Shared<W>>,
    sink: Shared<W>,
}

/// A sink that can be flushed while the format's writer has it.
struct Shared<W>(Arc<Mutex<W>>);

impl<W: Write> Write for Shared<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.lock().flush()
    }
}

impl CaptureWriter<BufWriter<File>> {
    /// Creates or truncates a file.
    ///
    /// # Errors
    /// The file cannot be written; the message names it.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let name = path.display().to_string();
        let file = File::create(path).map_err(|error| io_error(&name, &error))?;
        CaptureWriter::new(BufWriter::new(file), &name)
    }
}

impl<W: Write> CaptureWriter<W> {
    /// Writes to anything; `name` is used in messages.
    ///
    /// # Errors
    /// EIO: the header cannot be written.
    pub fn new(sink: W, name: &str) -> Result<Self, Error> {
        let header = PcapHeader {
            datalink: DataLink::ETHERNET,
            ..PcapHeader::default()
        };
        let sink = Arc::new(Mutex::new(sink));
        let writer = PcapWriter::with_header(Shared(Arc::clone(&sink)), header)
            .map_err(|error| pcap_error(name, &error))?;
        Ok(CaptureWriter {
            name: name.to_owned(),
            writer,
            sink: Shared(sink),
        })
    }

    /// Hands on what is buffered.
    ///
    /// # Errors
    /// EIO: it cannot be written.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.sink
            .flush()
            .map_err(|error| io_error(&self.name, &error))
    }

    /// Appends a packet.
    ///
    /// # Errors
    /// EIO: it cannot be written.
    pub fn write(&mut self, packet: &CapturedPacket) -> Result<(), Error> {
        let record = PcapPacket::new(packet.time, packet.data.len() as u32, &packet.data);
        self.writer
            .write_packet(&record)
            .map(|_| ())
            .map_err(|error| pcap_error(&self.name, &error))
    }
}

fn io_error(name: &str, error: &std::io::Error) -> Error {
    Error::new(
        error.raw_os_error().map_or(Errno::EIO, Errno::from_raw),
        format!("{name}: {error}"),
    )
}

fn pcap_error(name: &str, error: &PcapError) -> Error {
    match error {
        PcapError::IoError(error) => io_error(name, error),
        _ => Error::new(Errno::EINVAL, format!("{name}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let packet = CapturedPacket {
            time: Duration::new(5, 1000),
            data: vec![1; 60],
        };
        let mut bytes = Vec::new();
        CaptureWriter::new(&mut bytes, "memory")
            .unwrap()
            .write(&packet)
            .unwrap();
        let mut reader = CaptureReader::new(&bytes[..], "memory").unwrap();
        assert_eq!(reader.next_packet().unwrap(), Some(packet));
        assert_eq!(reader.next_packet().unwrap(), None);
    }

    #[test]
    fn damaged_captures_are_errors() {
        assert!(CaptureReader::new(&b"not a capture at all, no"[..], "memory").is_err());
        let mut bytes = Vec::new();
        let packet = CapturedPacket {
            time: Duration::ZERO,
            data: vec![1; 60],
        };
        CaptureWriter::new(&mut bytes, "memory")
            .unwrap()
            .write(&packet)
            .unwrap();
        bytes.truncate(bytes.len() - 1);
        assert!(
            CaptureReader::new(&bytes[..], "memory")
                .unwrap()
                .next_packet()
                .is_err()
        );
    }
}
