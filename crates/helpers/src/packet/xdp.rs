//! `XdpBuff`: a frame before the stack. Key type: [`XdpBuff`], whose first bytes are the kernel's `struct xdp_buff`.
//!
//! A frame is a linear part, which programs address, and up to 17 fragments of a page behind it, which only helpers reach:
//!
//! ```text
//! | headroom 256 | metadata | linear part ... | tailroom | shared info 320 |   | fragment ... | tailroom |   | fragment ... | tailroom |
//!                           data              data_end
//! ```

use std::{borrow::Cow, sync::Arc};

use ring3_uapi::Errno;

use super::{
    NetDevice,
    layout::{
        skb_shared_info::{self as shared, FRAGS_MAX},
        xdp_buff as at, xdp_rxq_info as rxq,
    },
    object::Object,
};

/// Bytes before the packet. Source: `XDP_PACKET_HEADROOM`.
pub(super) const HEADROOM_BYTES: usize = 256;
/// Bytes at the start of the headroom that programs may not use. Source: `sizeof(struct xdp_frame)` of 6.18.
pub(super) const FRAME_BYTES: usize = 40;
/// Bytes at the end of a frame that hold `struct skb_shared_info`.
pub(super) const SHARED_INFO_BYTES: usize = 320;
/// Frame size of a driver that gives a page per packet.
const PAGE_BYTES: usize = 4096;

/// `XDP_FLAGS_HAS_FRAGS`
pub(super) const FLAG_HAS_FRAGS: u32 = 1;

/// A page and the bytes of it that are packet.
struct Frag {
    page: Box<[u8; PAGE_BYTES]>,
    len: usize,
}

/// A frame with its receive queue.
#[repr(C)]
pub struct XdpBuff {
    object: Object<{ at::BYTES }>,
    rxq: Object<{ rxq::BYTES }>,
    txq: Object<{ rxq::BYTES }>,
    /// Headroom, packet, tailroom, shared info.
    memory: Vec<u8>,
    frags: Vec<Frag>,
    /// Pages of earlier fragments.
    spare: Vec<Box<[u8; PAGE_BYTES]>>,
    dev: Arc<NetDevice>,
}

impl XdpBuff {
    /// Longest packet in one page, and the longest linear part of one in fragments.
    pub const PAGE_LEN_MAX: usize = PAGE_BYTES - HEADROOM_BYTES - SHARED_INFO_BYTES;

    /// A frame received on queue `queue_index` of `dev`, in one piece: one longer than a page gets as many as it needs.
    ///
    /// # Errors
    /// EINVAL: shorter than an Ethernet header or longer than 65535 bytes.
    pub fn received(
        frame: &[u8],
        dev: &Arc<NetDevice>,
        queue_index: u32,
    ) -> Result<Box<XdpBuff>, Errno> {
        let mut xdp = Box::new(XdpBuff {
            object: Object::zeroed(),
            rxq: Object::zeroed(),
            txq: Object::zeroed(),
            memory: Vec::new(),
            frags: Vec::new(),
            spare: Vec::new(),
            dev: Arc::clone(dev),
        });
        xdp.refill(frame, dev, queue_index)?;
        Ok(xdp)
    }

    /// Makes this a freshly received frame whose first `linear_bytes` are linear; the rest is in fragments of a page each.
    ///
    /// # Errors
    /// EINVAL: shorter than an Ethernet header. ENOMEM: more than 17 fragments. The frame is unchanged then.
    pub fn refill_split(
        &mut self,
        frame: &[u8],
        linear_bytes: usize,
        dev: &Arc<NetDevice>,
        queue_index: u32,
    ) -> Result<(), Errno> {
        if frame.len() < super::skb::ETH_HEADER_BYTES {
            return Err(Errno::EINVAL);
        }
        let (linear, rest) = frame.split_at(linear_bytes.min(Self::PAGE_LEN_MAX).min(frame.len()));
        if rest.len() > FRAGS_MAX * PAGE_BYTES {
            return Err(Errno::ENOMEM);
        }
        self.refill_linear(linear, dev, queue_index);
        for bytes in rest.chunks(PAGE_BYTES) {
            let fresh = || Box::new([0; PAGE_BYTES]);
            let mut page = self.spare.pop().unwrap_or_else(fresh);
            page[..bytes.len()].copy_from_slice(bytes);
            let len = bytes.len();
            self.frags.push(Frag { page, len });
        }
        self.show_frags();
        Ok(())
    }

    /// Makes this a freshly received frame, in the memory it has.
    ///
    /// # Errors
    /// As [`XdpBuff::received`]; the frame is unchanged then.
    pub fn refill(
        &mut self,
        frame: &[u8],
        dev: &Arc<NetDevice>,
        queue_index: u32,
    ) -> Result<(), Errno> {
        if frame.len() < super::skb::ETH_HEADER_BYTES || frame.len() > 0xffff {
            return Err(Errno::EINVAL);
        }
        self.refill_linear(frame, dev, queue_index);
        Ok(())
    }

    fn refill_linear(&mut self, frame: &[u8], dev: &Arc<NetDevice>, queue_index: u32) {
        while let Some(frag) = self.frags.pop() {
            self.spare.push(frag.page);
        }
        let frame_bytes =
            (HEADROOM_BYTES + frame.len() + SHARED_INFO_BYTES).next_multiple_of(PAGE_BYTES);
        // What an earlier packet left around this one stays, as on a driver that uses its pages again.
        self.memory.resize(frame_bytes, 0);
        self.memory[HEADROOM_BYTES..HEADROOM_BYTES + frame.len()].copy_from_slice(frame);
        if !Arc::ptr_eq(&self.dev, dev) {
            self.dev = Arc::clone(dev);
        }
        let start = self.memory.as_mut_ptr().expose_provenance() as u64;
        self.rxq.set_u64(rxq::DEV, self.dev.program_ptr());
        self.rxq.set_u32(rxq::QUEUE_INDEX, queue_index);
        self.txq.set_u64(rxq::DEV, self.dev.program_ptr());
        let rxq_ptr = std::ptr::from_ref(&self.rxq).expose_provenance() as u64;
        let txq_ptr = std::ptr::from_ref(&self.txq).expose_provenance() as u64;
        self.object.set_u64(at::DATA_HARD_START, start);
        self.object.set_u64(at::RXQ, rxq_ptr);
        self.object.set_u64(at::TXQ, txq_ptr);
        self.object.set_u32(at::FRAME_SZ, frame_bytes as u32);
        self.set_bounds(HEADROOM_BYTES, HEADROOM_BYTES, HEADROOM_BYTES + frame.len());
        self.show_frags();
    }

    fn show_frags(&mut self) {
        let flags = if self.frags.is_empty() {
            0
        } else {
            FLAG_HAS_FRAGS
        };
        self.object.set_u32(at::FLAGS, flags);
        let info = self.memory.len() - SHARED_INFO_BYTES;
        let info = &mut self.memory[info..];
        info[shared::NR_FRAGS] = self.frags.len() as u8;
        let rows = info[shared::FRAGS..].chunks_exact_mut(shared::FRAG_BYTES);
        for (row, frag) in rows.zip(&self.frags) {
            let address = frag.page.as_ptr().expose_provenance() as u64;
            row[..8].copy_from_slice(&address.to_ne_bytes());
            row[shared::FRAG_LEN..shared::FRAG_LEN + 4]
                .copy_from_slice(&(frag.len as u32).to_ne_bytes());
        }
    }

    /// The pointer that programs get as their context.
    pub fn program_ptr(&mut self) -> u64 {
        std::ptr::from_mut(self).expose_provenance() as u64
    }

    /// The linear part of the packet: all of it, where it has no fragments.
    pub fn data(&self) -> &[u8] {
        let (_, data, end) = self.bounds();
        &self.memory[data..end]
    }

    /// The linear part of the packet, writable.
    pub fn data_mut(&mut self) -> &mut [u8] {
        let (_, data, end) = self.bounds();
        &mut self.memory[data..end]
    }

    /// The whole packet.
    pub fn frame(&self) -> Cow<'_, [u8]> {
        if self.frags.is_empty() {
            return Cow::Borrowed(self.data());
        }
        Cow::Owned(self.parts().flatten().copied().collect())
    }

    /// Bytes of the whole packet.
    pub fn len_bytes(&self) -> usize {
        self.parts().map(<[u8]>::len).sum()
    }

    fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let frags = self.frags.iter().map(|frag| &frag.page[..frag.len]);
        std::iter::once(self.data()).chain(frags)
    }

    /// Copies the bytes from `offset` on, which are all there, to `out`.
    pub(crate) fn load(&self, mut offset: usize, mut out: &mut [u8]) {
        for part in self.parts() {
            let found = part.get(offset..).unwrap_or_default();
            let (now, later) = out.split_at_mut(found.len().min(out.len()));
            now.copy_from_slice(&found[..now.len()]);
            offset = offset.saturating_sub(part.len());
            out = later;
        }
    }

    /// Copies `bytes` over the packet's from `offset` on, which are all there.
    pub(crate) fn store(&mut self, mut offset: usize, mut bytes: &[u8]) {
        let (_, data, end) = self.bounds();
        let linear = &mut self.memory[data..end];
        let frags = self.frags.iter_mut().map(|frag| &mut frag.page[..frag.len]);
        for part in std::iter::once(linear).chain(frags) {
            let len = part.len();
            let found = part.get_mut(offset..).unwrap_or_default();
            let (now, later) = bytes.split_at(found.len().min(bytes.len()));
            found[..now.len()].copy_from_slice(now);
            offset = offset.saturating_sub(len);
            bytes = later;
        }
    }

    /// What the program put before the packet with `bpf_xdp_adjust_meta`.
    pub fn metadata(&self) -> &[u8] {
        let (meta, data, _) = self.bounds();
        &self.memory[meta.min(data)..data]
    }

    /// Puts metadata before the packet.
    ///
    /// # Errors
    /// As `bpf_xdp_adjust_meta`.
    pub fn set_metadata(&mut self, metadata: &[u8]) -> Result<(), Errno> {
        let (meta, data, _) = self.bounds();
        let delta = (data - meta) as i64 - metadata.len() as i64;
        self.adjust_meta(i32::try_from(delta).map_err(|_| Errno::EINVAL)?)?;
        self.memory[data - metadata.len()..data].copy_from_slice(metadata);
        Ok(())
    }

    /// The device it came in on.
    pub fn device(&self) -> &Arc<NetDevice> {
        &self.dev
    }

    /// Offsets of `data_meta`, `data` and `data_end` in the frame.
    fn bounds(&self) -> (usize, usize, usize) {
        let start = self.object.u64(at::DATA_HARD_START);
        let offset = |field| (self.object.u64(field) - start) as usize;
        (
            offset(at::DATA_META),
            offset(at::DATA),
            offset(at::DATA_END),
        )
    }

    fn set_bounds(&mut self, meta: usize, data: usize, end: usize) {
        let start = self.object.u64(at::DATA_HARD_START);
        self.object.set_u64(at::DATA_META, start + meta as u64);
        self.object.set_u64(at::DATA, start + data as u64);
        self.object.set_u64(at::DATA_END, start + end as u64);
    }

    /// `bpf_xdp_adjust_head`: moves the start of the packet by `delta` bytes, metadata with it.
    ///
    /// # Errors
    /// EINVAL: into the reserved part of the headroom, or less than an Ethernet header would be left.
    pub(super) fn adjust_head(&mut self, delta: i32) -> Result<(), Errno> {
        let (meta, data, end) = self.bounds();
        let metadata_bytes = data - meta;
        let new_data = data as i64 + i64::from(delta);
        let lowest = (FRAME_BYTES + metadata_bytes) as i64;
        if new_data < lowest || new_data > end as i64 - super::skb::ETH_HEADER_BYTES as i64 {
            return Err(Errno::EINVAL);
        }
        let new_data = new_data as usize;
        self.memory
            .copy_within(meta..data, new_data - metadata_bytes);
        self.set_bounds(new_data - metadata_bytes, new_data, end);
        Ok(())
    }

    /// `bpf_xdp_adjust_tail`: moves the end of the packet by `delta` bytes; what is gained is zero. A fragment that loses its last byte is gone.
    ///
    /// # Errors
    /// EINVAL: beyond the last page, or less than an Ethernet header would be left.
    pub(super) fn adjust_tail(&mut self, delta: i32) -> Result<(), Errno> {
        if self.frags.is_empty() {
            return self.adjust_linear_tail(i64::from(delta));
        }
        if let Ok(grow) = usize::try_from(delta) {
            return self.grow_last_frag(grow);
        }
        let mut shrink = delta.unsigned_abs() as usize;
        if self.len_bytes() < shrink + super::skb::ETH_HEADER_BYTES {
            return Err(Errno::EINVAL);
        }
        while let Some(last) = self.frags.last_mut() {
            let cut = shrink.min(last.len);
            last.len -= cut;
            shrink -= cut;
            if last.len > 0 {
                break;
            }
            self.spare.extend(self.frags.pop().map(|frag| frag.page));
        }
        self.show_frags();
        let (meta, data, end) = self.bounds();
        self.set_bounds(meta, data, end - shrink);
        Ok(())
    }

    fn grow_last_frag(&mut self, bytes: usize) -> Result<(), Errno> {
        let Some(last) = self.frags.last_mut() else {
            return Err(Errno::EINVAL);
        };
        let gained = last.page.get_mut(last.len..last.len + bytes);
        gained.ok_or(Errno::EINVAL)?.fill(0);
        last.len += bytes;
        self.show_frags();
        Ok(())
    }

    fn adjust_linear_tail(&mut self, delta: i64) -> Result<(), Errno> {
        let (meta, data, end) = self.bounds();
        let new_end = end as i64 + delta;
        let highest = (self.memory.len() - SHARED_INFO_BYTES) as i64;
        if new_end > highest || new_end < (data + super::skb::ETH_HEADER_BYTES) as i64 {
            return Err(Errno::EINVAL);
        }
        let new_end = new_end as usize;
        if new_end > end {
            self.memory[end..new_end].fill(0);
        }
        self.set_bounds(meta, data, new_end);
        Ok(())
    }

    /// `bpf_xdp_adjust_meta`: moves the start of the metadata by `delta` bytes.
    ///
    /// # Errors
    /// EINVAL: outside of the headroom; EACCES: not a multiple of 4, or more than 252 bytes.
    pub(super) fn adjust_meta(&mut self, delta: i32) -> Result<(), Errno> {
        const METADATA_BYTES_MAX: i64 = 255;
        let (meta, data, end) = self.bounds();
        let new_meta = meta as i64 + i64::from(delta);
        if new_meta < FRAME_BYTES as i64 || new_meta > data as i64 {
            return Err(Errno::EINVAL);
        }
        let bytes = data as i64 - new_meta;
        if bytes % 4 != 0 || bytes > METADATA_BYTES_MAX {
            return Err(Errno::EACCES);
        }
        self.set_bounds(new_meta as usize, data, end);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_and_tail_move_within_the_frame() {
        let mut xdp = XdpBuff::received(&[7; 64], &NetDevice::new(1, "lo", 1500), 0).unwrap();
        assert_eq!(xdp.adjust_head(-8), Ok(()));
        assert_eq!(xdp.data().len(), 72);
        assert_eq!(xdp.data()[8], 7);
        assert_eq!(
            xdp.adjust_head(-((HEADROOM_BYTES - 8 - FRAME_BYTES) as i32) - 1),
            Err(Errno::EINVAL)
        );
        assert_eq!(xdp.adjust_head(72 - 13), Err(Errno::EINVAL));
        assert_eq!(xdp.adjust_tail(10), Ok(()));
        assert_eq!(xdp.data()[70..74], [7, 7, 0, 0]);
        assert_eq!(xdp.adjust_tail(4096), Err(Errno::EINVAL));
        assert_eq!(xdp.adjust_tail(-69), Err(Errno::EINVAL));
    }

    #[test]
    fn fragments_are_read_written_and_cut() {
        let frame: Vec<u8> = (0..9000u32).map(|i| (i % 251) as u8).collect();
        let device = NetDevice::new(1, "lo", 1500);
        let mut xdp = XdpBuff::received(&[7; 64], &device, 0).unwrap();
        assert_eq!(
            xdp.refill_split(&vec![0; 73_153], 3520, &device, 0),
            Err(Errno::ENOMEM)
        );
        xdp.refill_split(&frame, 3520, &device, 0).unwrap();
        assert_eq!((xdp.data().len(), xdp.len_bytes()), (3520, 9000));
        assert_eq!(xdp.object.u32(at::FLAGS), FLAG_HAS_FRAGS);
        let mut out = [0; 4200];
        xdp.load(3500, &mut out);
        assert_eq!(out, frame[3500..7700]);
        xdp.store(3518, &[1, 2, 3, 4]);
        assert_eq!(
            xdp.frame()[3517..3523],
            [frame[3517], 1, 2, 3, 4, frame[3522]]
        );
        assert_eq!(xdp.adjust_tail(2713), Err(Errno::EINVAL));
        assert_eq!(xdp.adjust_tail(2712), Ok(()));
        assert_eq!(xdp.adjust_tail(-(2712 + 1384 + 4096 + 20)), Ok(()));
        assert_eq!((xdp.data().len(), xdp.len_bytes()), (3500, 3500));
        assert_eq!(xdp.object.u32(at::FLAGS), 0);
    }

    #[test]
    fn metadata_moves_with_the_head() {
        let mut xdp = XdpBuff::received(&[7; 64], &NetDevice::new(1, "lo", 1500), 0).unwrap();
        assert_eq!(xdp.adjust_meta(-6), Err(Errno::EACCES));
        assert_eq!(xdp.adjust_meta(-8), Ok(()));
        let (meta, data, _) = xdp.bounds();
        xdp.memory[meta..data].copy_from_slice(b"metadata");
        assert_eq!(xdp.adjust_head(-16), Ok(()));
        assert_eq!(xdp.metadata(), b"metadata");
        assert_eq!(xdp.adjust_meta(9), Err(Errno::EINVAL));
    }
}
