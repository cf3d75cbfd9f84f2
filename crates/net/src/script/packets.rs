//! Lines that bring packets in and write down what leaves.

use std::time::Duration;

use super::{
    Result, Script,
    parse::{Words, parse_hex, unknown},
};
use crate::{CaptureReader, CaptureWriter, CapturedPacket};

impl Script {
    pub(super) fn capture(&mut self, words: &mut Words<'_>) -> Result<()> {
        let file = self.folder.join(words.value("capture")?);
        let mut capture = CaptureWriter::create(&file)?;
        capture.flush()?;
        self.capture = Some(capture);
        Ok(())
    }

    pub(super) fn packets(&mut self, verb: &str, words: &mut Words<'_>) -> Result<()> {
        let device = self.net.device_by_name(words.value(verb)?)?;
        let mut frames = Vec::new();
        match words.value(verb)? {
            "pcap" => {
                let mut reader = CaptureReader::open(&self.folder.join(words.value("pcap")?))?;
                while let Some(packet) = reader.next_packet()? {
                    frames.push(packet.data);
                }
            }
            "hex" => frames.push(parse_hex(words.value("hex")?)?),
            other => return Err(unknown(other)),
        }
        for frame in &frames {
            if verb == "send" {
                self.path.send(&device, frame)?;
            } else {
                self.path.inject(&device, frame)?;
            }
            for data in self.sent.try_iter() {
                if let Some(capture) = &mut self.capture {
                    // Captures repeat to the byte: a microsecond a packet.
                    let time = Duration::from_micros(self.captured);
                    self.captured += 1;
                    capture.write(&CapturedPacket { time, data })?;
                }
            }
        }
        self.capture.as_mut().map_or(Ok(()), CaptureWriter::flush)
    }
}
