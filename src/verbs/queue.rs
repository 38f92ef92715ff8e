//! Completion queues, and queue pairs: the ends of reliable connections.

use std::ffi::{CStr, c_int};
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use rdma_sys::{
    ibv_access_flags, ibv_cq, ibv_create_cq, ibv_create_qp, ibv_destroy_cq, ibv_destroy_qp, ibv_gid, ibv_modify_qp,
    ibv_poll_cq, ibv_post_send, ibv_qp, ibv_qp_attr, ibv_qp_attr_mask, ibv_qp_init_attr, ibv_qp_state, ibv_qp_type,
    ibv_send_flags, ibv_send_wr, ibv_sge, ibv_wc, ibv_wc_status, ibv_wc_status_str, ibv_wr_opcode, rdma_t,
};

use super::domain::Domain;
use super::port::Port;
use crate::memory;

/// Most work requests in one list, with one ring of the doorbell.
pub(crate) const BATCH: usize = 32;
/// Completions taken from the queue in one call.
const AT_ONCE: usize = 16;
/// Bytes that a small write carries in its request, where the device takes so many; else fewer.
const INLINE: [u32; 3] = [220, 60, 0];

/// Where the ends of connections of one domain put what they completed.
pub(crate) struct CompletionQueue {
    cq: NonNull<ibv_cq>,
    capacity: usize,
    domain: Arc<Domain>,
}

// SAFETY: libibverbs may be called from any thread.
unsafe impl Send for CompletionQueue {}
// SAFETY: as above.
unsafe impl Sync for CompletionQueue {}

/// A work request that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Completion {
    /// As the request had it.
    pub id: u64,
    pub status: Status,
}

/// How a work request ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Status(ibv_wc_status::Type);

impl Status {
    pub(crate) fn is_success(self) -> bool {
        self.0 == ibv_wc_status::IBV_WC_SUCCESS
    }

    /// Not done, since the connection had broken before: no fault of the request.
    pub(crate) fn is_flushed(self) -> bool {
        self.0 == ibv_wc_status::IBV_WC_WR_FLUSH_ERR
    }

    /// The peer's device refused key or range.
    pub(crate) fn is_remote_access(self) -> bool {
        self.0 == ibv_wc_status::IBV_WC_REM_ACCESS_ERR
    }

    /// The peer's device did not answer.
    pub(crate) fn is_silence(self) -> bool {
        [ibv_wc_status::IBV_WC_RETRY_EXC_ERR, ibv_wc_status::IBV_WC_RNR_RETRY_EXC_ERR].contains(&self.0)
    }

    /// The fault is in the request itself, not in the connection.
    pub(crate) fn is_of_request(self) -> bool {
        use ibv_wc_status::*;
        let faults = [IBV_WC_REM_ACCESS_ERR, IBV_WC_REM_INV_REQ_ERR, IBV_WC_REM_OP_ERR, IBV_WC_LOC_PROT_ERR];
        faults.contains(&self.0) || [IBV_WC_LOC_LEN_ERR, IBV_WC_LOC_QP_OP_ERR, IBV_WC_LOC_ACCESS_ERR].contains(&self.0)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: the function has a text for every number.
        let text = unsafe { CStr::from_ptr(ibv_wc_status_str(self.0)) };
        f.write_str(&text.to_string_lossy())
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Status({}: {self})", self.0)
    }
}

impl CompletionQueue {
    /// For at most so many completions that nobody has taken yet.
    ///
    /// # Errors
    /// The device's refusal.
    pub(crate) fn new(domain: &Arc<Domain>, capacity: usize) -> io::Result<Arc<Self>> {
        let most = usize::try_from(domain.context().limits().max_cqe).unwrap_or(0);
        let capacity = capacity.min(most);
        let context = domain.context().raw().as_ptr();
        // SAFETY: the context is open, and the domain keeps it so.
        let cq = unsafe { ibv_create_cq(context, capacity as c_int, ptr::null_mut(), ptr::null_mut(), 0) };
        let cq = NonNull::new(cq).ok_or_else(io::Error::last_os_error)?;
        Ok(Arc::new(Self { cq, capacity, domain: domain.clone() }))
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Takes some completions, in the order in which they came; none when there is none. Never waits.
    ///
    /// # Errors
    /// The device's own.
    pub(crate) fn poll(&self, mut take: impl FnMut(Completion)) -> io::Result<usize> {
        let mut found = [const { MaybeUninit::<ibv_wc>::uninit() }; AT_ONCE];
        // SAFETY: a live queue, and room for so many.
        let count = unsafe { ibv_poll_cq(self.cq.as_ptr(), AT_ONCE as i32, found.as_mut_ptr().cast()) };
        let count = usize::try_from(count).map_err(|_| io::Error::other("the completion queue cannot be read"))?;
        for completion in &found[..count.min(AT_ONCE)] {
            // SAFETY: the first `count` were written.
            let completion = unsafe { completion.assume_init_ref() };
            take(Completion { id: completion.wr_id, status: Status(completion.status) });
        }
        Ok(count)
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        if !memory::in_forked_child() {
            // SAFETY: made by us, and no queue pair of it is left, as each keeps it alive.
            let code = unsafe { ibv_destroy_cq(self.cq.as_ptr()) };
            if code != 0 {
                let (name, error) = (self.domain.context().name(), io::Error::from_raw_os_error(code));
                tracing::warn!("{name}: a completion queue is not given back: {error}");
            }
        }
    }
}

impl fmt::Debug for CompletionQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CompletionQueue({})", self.capacity)
    }
}

/// What the other side needs to know of an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address {
    pub queue_pair: u32,
    /// The number of its first packet.
    pub first_packet: u32,
    pub gid: [u8; 16],
    pub lid: u16,
    /// Bytes of its largest packet.
    pub mtu: u32,
    /// Reads that it answers at once.
    pub reads: u8,
}

/// How long an unanswered packet is waited for, and how often it is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Patience {
    pub timeout: Duration,
    /// At most 6: 7 would be for ever.
    pub retries: u8,
}

impl Patience {
    /// The device's own notation: 4.096 µs, doubled so often.
    fn exponent(&self) -> u8 {
        (1..31).find(|doubled| Duration::from_nanos(4096 << doubled) >= self.timeout).unwrap_or(31)
    }
}

/// Reading remote memory, or writing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
}

/// A piece of memory to be read or written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WorkRequest {
    pub id: u64,
    pub kind: Kind,
    /// Memory here: address, local key, bytes.
    pub local: u64,
    pub key: u32,
    pub len: u32,
    /// Memory there.
    pub remote: u64,
    pub remote_key: u32,
    /// Whether its success is told; a failure always is.
    pub signaled: bool,
}

/// One end of a reliable connection. When it is dropped the device has stopped using what was posted to it.
pub(crate) struct QueuePair {
    qp: NonNull<ibv_qp>,
    first_packet: u32,
    inline: u32,
    port: Port,
    cq: Arc<CompletionQueue>,
}

// SAFETY: libibverbs may be called from any thread.
unsafe impl Send for QueuePair {}
// SAFETY: as above.
unsafe impl Sync for QueuePair {}

fn changed(code: c_int) -> io::Result<()> {
    // Some libraries give -1 and set errno, others give its number.
    match code {
        0 => Ok(()),
        -1 => Err(io::Error::last_os_error()),
        code => Err(io::Error::from_raw_os_error(code.abs())),
    }
}

impl QueuePair {
    /// An end that is connected to nothing, for at most `depth` work requests at once.
    ///
    /// # Errors
    /// The device's refusal.
    pub(crate) fn new(cq: &Arc<CompletionQueue>, port: &Port, depth: usize, first_packet: u32) -> io::Result<Self> {
        let made = INLINE.iter().find_map(|&inline| {
            // SAFETY: plain numbers and pointers, of which zero is a valid value.
            let mut attributes: ibv_qp_init_attr = unsafe { std::mem::zeroed() };
            (attributes.send_cq, attributes.recv_cq) = (cq.cq.as_ptr(), cq.cq.as_ptr());
            attributes.qp_type = ibv_qp_type::IBV_QPT_RC;
            attributes.cap.max_send_wr = depth as u32;
            attributes.cap.max_recv_wr = 1;
            (attributes.cap.max_send_sge, attributes.cap.max_recv_sge) = (1, 1);
            attributes.cap.max_inline_data = inline;
            // SAFETY: the domain and the queue are live, and the queue pair keeps them so.
            let qp = unsafe { ibv_create_qp(cq.domain.raw().as_ptr(), &mut attributes) };
            NonNull::new(qp).map(|qp| (qp, attributes.cap.max_inline_data.min(inline)))
        });
        let (qp, inline) = made.ok_or_else(io::Error::last_os_error)?;
        let first_packet = first_packet & 0xff_ffff;
        let end = Self { qp, first_packet, inline, port: port.clone(), cq: cq.clone() };
        let mut attributes = end.attributes(ibv_qp_state::IBV_QPS_INIT);
        attributes.port_num = port.number;
        attributes.qp_access_flags =
            ibv_access_flags::IBV_ACCESS_REMOTE_READ.0 | ibv_access_flags::IBV_ACCESS_REMOTE_WRITE.0;
        use ibv_qp_attr_mask as mask;
        let what = mask::IBV_QP_STATE | mask::IBV_QP_PKEY_INDEX | mask::IBV_QP_PORT | mask::IBV_QP_ACCESS_FLAGS;
        end.modify(attributes, what)?;
        Ok(end)
    }

    fn attributes(&self, state: ibv_qp_state::Type) -> ibv_qp_attr {
        // SAFETY: plain numbers, of which zero is a valid value.
        ibv_qp_attr { qp_state: state, ..unsafe { std::mem::zeroed() } }
    }

    fn modify(&self, mut attributes: ibv_qp_attr, what: ibv_qp_attr_mask) -> io::Result<()> {
        // SAFETY: a live queue pair; the attributes are those that the mask names.
        changed(unsafe { ibv_modify_qp(self.qp.as_ptr(), &mut attributes, what.0 as c_int) })
    }

    /// What the other end connects to.
    pub(crate) fn address(&self) -> Address {
        Address {
            // SAFETY: a live queue pair.
            queue_pair: unsafe { self.qp.as_ref() }.qp_num,
            first_packet: self.first_packet,
            gid: self.port.gid.address.octets(),
            lid: self.port.lid,
            mtu: self.port.mtu,
            reads: u8::try_from(self.cq.domain.context().limits().max_qp_rd_atom).unwrap_or(u8::MAX),
        }
    }

    /// Connects it. It can be read from and written to at once; the other end as soon as that is connected too.
    ///
    /// # Errors
    /// The device's refusal: an address that it does not reach, for example.
    pub(crate) fn connect(&self, to: &Address, patience: Patience) -> io::Result<()> {
        use ibv_qp_attr_mask as mask;
        let own = self.address();
        let mut attributes = self.attributes(ibv_qp_state::IBV_QPS_RTR);
        attributes.path_mtu = own.mtu.min(to.mtu).max(256).ilog2() - 7;
        (attributes.dest_qp_num, attributes.rq_psn) = (to.queue_pair, to.first_packet & 0xff_ffff);
        (attributes.max_dest_rd_atomic, attributes.min_rnr_timer) = (own.reads, 12);
        attributes.ah_attr.port_num = self.port.number;
        attributes.ah_attr.dlid = to.lid;
        if self.port.ethernet {
            attributes.ah_attr.is_global = 1;
            attributes.ah_attr.grh.dgid = ibv_gid { raw: to.gid };
            (attributes.ah_attr.grh.sgid_index, attributes.ah_attr.grh.hop_limit) = (self.port.gid.index, 64);
        }
        let receive = mask::IBV_QP_STATE | mask::IBV_QP_AV | mask::IBV_QP_PATH_MTU | mask::IBV_QP_DEST_QPN;
        let receive = receive | mask::IBV_QP_RQ_PSN | mask::IBV_QP_MAX_DEST_RD_ATOMIC | mask::IBV_QP_MIN_RNR_TIMER;
        self.modify(attributes, receive)?;
        let mut attributes = self.attributes(ibv_qp_state::IBV_QPS_RTS);
        (attributes.timeout, attributes.retry_cnt) = (patience.exponent(), patience.retries.min(6));
        (attributes.rnr_retry, attributes.sq_psn) = (patience.retries.min(6), self.first_packet);
        let most = u8::try_from(self.cq.domain.context().limits().max_qp_init_rd_atom).unwrap_or(u8::MAX);
        attributes.max_rd_atomic = to.reads.min(most);
        let send = mask::IBV_QP_STATE | mask::IBV_QP_TIMEOUT | mask::IBV_QP_RETRY_CNT | mask::IBV_QP_RNR_RETRY;
        self.modify(attributes, send | mask::IBV_QP_SQ_PSN | mask::IBV_QP_MAX_QP_RD_ATOMIC)
    }

    /// Bytes that a write carries in its request: their memory is not used after [`QueuePair::post`], and needs no key.
    pub(crate) fn inline(&self) -> u32 {
        self.inline
    }

    /// Hands a list of at most [`BATCH`] work requests to the device, by one ring of its doorbell.
    ///
    /// # Errors
    /// The device's refusal. Some of the list may be under way.
    ///
    /// # Safety
    /// The memory here belongs to a region of the same domain and may be used (for a read: written) by the device until the
    /// request or a later one of this end has completed, or this value was dropped; but for writes of at most
    /// [`QueuePair::inline`] bytes.
    pub(crate) unsafe fn post(&self, requests: &[WorkRequest]) -> io::Result<()> {
        let mut gather = [const { MaybeUninit::<ibv_sge>::uninit() }; BATCH];
        let mut list = [const { MaybeUninit::<ibv_send_wr>::uninit() }; BATCH];
        let (places, first) = (gather.as_mut_ptr().cast::<ibv_sge>(), list.as_mut_ptr().cast::<ibv_send_wr>());
        let count = requests.len().min(BATCH);
        for (at, request) in requests[..count].iter().enumerate() {
            let (opcode, inline) = match request.kind {
                Kind::Read => (ibv_wr_opcode::IBV_WR_RDMA_READ, false),
                Kind::Write => (ibv_wr_opcode::IBV_WR_RDMA_WRITE, request.len <= self.inline),
            };
            let signaled = if request.signaled { ibv_send_flags::IBV_SEND_SIGNALED.0 } else { 0 };
            let inline = if inline { ibv_send_flags::IBV_SEND_INLINE.0 } else { 0 };
            // SAFETY: both arrays have BATCH places; a work request is plain numbers and pointers, of which zero is valid.
            unsafe {
                places.add(at).write(ibv_sge { addr: request.local, length: request.len, lkey: request.key });
                let place = first.add(at);
                place.write(std::mem::zeroed());
                (*place).wr_id = request.id;
                (*place).next = if at + 1 < count { first.add(at + 1) } else { ptr::null_mut() };
                ((*place).sg_list, (*place).num_sge) = (places.add(at), 1);
                ((*place).opcode, (*place).send_flags) = (opcode, signaled | inline);
                (*place).wr.rdma = rdma_t { remote_addr: request.remote, rkey: request.remote_key };
            }
        }
        if count == 0 {
            return Ok(());
        }
        let mut refused = ptr::null_mut();
        // SAFETY: a list of requests that were all written, whose memory is the caller's promise.
        changed(unsafe { ibv_post_send(self.qp.as_ptr(), first, &mut refused) })
    }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        if memory::in_forked_child() {
            return;
        }
        // SAFETY: made by us, and ended once.
        let code = unsafe { ibv_destroy_qp(self.qp.as_ptr()) };
        if code != 0 {
            // The device may go on using memory that others will use: there is no way out.
            let (name, error) = (self.cq.domain.context().name(), io::Error::from_raw_os_error(code));
            tracing::error!("{name}: an end of a connection cannot be ended: {error}");
            std::mem::forget(self.cq.clone());
            if self.modify(self.attributes(ibv_qp_state::IBV_QPS_ERR), ibv_qp_attr_mask::IBV_QP_STATE).is_err() {
                std::process::abort();
            }
        }
    }
}

impl fmt::Debug for QueuePair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QueuePair({:?}, {} inline)", self.address(), self.inline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_rounded_up_and_never_without_end() {
        let exponent = |timeout| Patience { timeout, retries: 6 }.exponent();
        let expected = [(Duration::ZERO, 1), (Duration::from_nanos(8192), 1), (Duration::from_nanos(8193), 2)];
        assert!(expected.iter().all(|&(timeout, doubled)| exponent(timeout) == doubled));
        assert_eq!(exponent(Duration::from_millis(100)), 15, "134 ms");
        assert_eq!(exponent(Duration::MAX), 31);
    }

    #[test]
    fn the_devices_reasons_are_told_apart() {
        let of = |number| Status(number);
        assert!(of(ibv_wc_status::IBV_WC_SUCCESS).is_success());
        assert!(of(ibv_wc_status::IBV_WC_REM_ACCESS_ERR).is_of_request());
        assert!(of(ibv_wc_status::IBV_WC_RETRY_EXC_ERR).is_silence());
        assert!(!of(ibv_wc_status::IBV_WC_WR_FLUSH_ERR).is_of_request());
        assert_eq!(of(ibv_wc_status::IBV_WC_RETRY_EXC_ERR).to_string(), "transport retry counter exceeded");
    }
}
