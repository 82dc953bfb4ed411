//! quinn on tokio, with sockets that segment again after a time in which they could not.
//!
//! `sendmsg` says EINVAL both where the hardware cannot segment and where there is no way: a blackhole
//! route, an address that was taken away. quinn's socket then never segments again, nor marks congestion,
//! and whoever lives on pays for each packet alone: twice the processor's time. Ours tries again.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::{fmt, net};

use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::Instant;

/// After how long segmenting is tried again at first, and at the most; twice as long each time. Where the
/// hardware cannot, each try costs a few packets.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(64);

/// Whoever is woken again within this time has much to do.
const BUSY: Duration = Duration::from_micros(100);

/// See the module.
#[derive(Debug)]
pub(crate) struct OnTokio;

impl Runtime for OnTokio {
    fn new_timer(&self, at: std::time::Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        TokioRuntime.spawn(Box::pin(LetOthersRun::new(future)));
    }

    fn wrap_udp_socket(&self, socket: net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Ok(Arc::new(Socket::new(socket)?))
    }

    fn now(&self) -> std::time::Instant {
        TokioRuntime.now()
    }
}

/// Drives a connection, or an endpoint; where it was driven just before, behind the tasks that are ready. It
/// is woken by the first stream that has something to send, and tokio runs who was woken last before all others:
/// of a thousand small frames on a hundred streams each would be a packet of its own.
struct LetOthersRun {
    driver: Pin<Box<dyn Future<Output = ()> + Send>>,
    driven: Option<Instant>,
    has_let: bool,
}

impl LetOthersRun {
    fn new(driver: Pin<Box<dyn Future<Output = ()> + Send>>) -> Self {
        Self { driver, driven: None, has_let: false }
    }
}

impl Future for LetOthersRun {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let is_busy = self.driven.is_some_and(|at| at.elapsed() < BUSY);
        if is_busy && !std::mem::replace(&mut self.has_let, true) {
            // Polled once, it asks to be run again behind the others.
            return pin!(yield_now()).poll(context);
        }
        self.has_let = false;
        let result = self.driver.as_mut().poll(context);
        self.driven = Some(Instant::now());
        result
    }
}

#[derive(Debug)]
struct Socket {
    io: UdpSocket,
    state: watch::Sender<State>,
    /// Packets in one call, as the kernel had it in the beginning.
    segments_max: usize,
}

#[derive(Debug)]
struct State {
    udp: UdpSocketState,
    /// When segmenting is to be tried again, if it was given up.
    retry_at: Option<Instant>,
    /// After how long, the next time.
    retry_after: Duration,
}

impl Socket {
    fn new(socket: net::UdpSocket) -> io::Result<Self> {
        let udp = UdpSocketState::new((&socket).into())?;
        let segments_max = udp.max_gso_segments();
        let state = State { udp, retry_at: None, retry_after: RETRY_MIN };
        let (io, state) = (UdpSocket::from_std(socket)?, watch::Sender::new(state));
        Ok(Self { io, state, segments_max })
    }

    /// Segmenting was given up: takes it up again when it is time.
    fn on_less(&self) {
        let now = Instant::now();
        self.state.send_if_modified(|state| {
            match state.retry_at {
                None => {
                    state.retry_at = Some(now + state.retry_after);
                    state.retry_after = RETRY_MAX.min(2 * state.retry_after);
                }
                Some(at) if now < at => {}
                // Fails where a socket takes no options any more; then all is as it was.
                Some(_) => {
                    if let Ok(udp) = UdpSocketState::new((&self.io).into()) {
                        (state.udp, state.retry_at) = (udp, None);
                    }
                }
            }
            // Nobody waits for it.
            false
        });
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller { socket: self, writable: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let state = self.state.borrow();
        self.io.try_io(Interest::WRITABLE, || state.udp.send((&self.io).into(), transmit))
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        about: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.io.poll_recv_ready(context))?;
            let state = self.state.borrow();
            let receive = || state.udp.recv((&self.io).into(), buffers, about);
            // An error is that of one datagram: quinn gives up an endpoint for it.
            if let Ok(received) = self.io.try_io(Interest::READABLE, receive) {
                return Poll::Ready(Ok(received));
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn may_fragment(&self) -> bool {
        self.state.borrow().udp.may_fragment()
    }

    fn max_transmit_segments(&self) -> usize {
        let segments = self.state.borrow().udp.max_gso_segments();
        if segments < self.segments_max {
            self.on_less();
        }
        segments
    }

    fn max_receive_segments(&self) -> usize {
        self.state.borrow().udp.gro_segments()
    }
}

/// Waits, for one task, until the socket takes something.
struct Poller {
    socket: Arc<Socket>,
    writable: Option<Writable>,
}

type Writable = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

impl UdpPoller for Poller {
    fn poll_writable(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = Arc::clone(&self.socket);
        let writable = self
            .writable
            .get_or_insert_with(|| Box::pin(async move { socket.io.writable().await }));
        let result = ready!(writable.as_mut().poll(context));
        self.writable = None;
        Poll::Ready(result)
    }
}

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poller").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::{Wake, Waker};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_driven_just_now_lets_others_run_once() {
        let driven = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&driven);
        let mut run = LetOthersRun::new(Box::pin(std::future::poll_fn(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            Poll::Pending
        })));
        let woken = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut poll = || {
            assert!(Pin::new(&mut run).poll(&mut Context::from_waker(&waker)).is_pending());
            driven.load(Ordering::Relaxed)
        };
        assert_eq!([poll(), poll()], [1, 1]);
        yield_now().await;
        assert_eq!(woken.0.load(Ordering::Relaxed), 1, "it comes again by itself");
        assert_eq!([poll(), poll(), poll()], [2, 2, 3]);
        tokio::time::advance(BUSY).await;
        assert_eq!([poll(), poll()], [4, 4], "it had nothing to do for a while");
    }

    /// What the kernel refuses as it does where there is no way.
    fn refused(socket: &Socket) {
        let destination = SocketAddr::from(([127, 0, 0, 1], 0));
        let contents = b"nowhere";
        let transmit =
            Transmit { destination, ecn: None, contents, segment_size: None, src_ip: None };
        socket.try_send(&transmit).expect("quinn takes it for lost");
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_segments_again_after_a_time_without_a_way() {
        let socket = net::UdpSocket::bind("127.0.0.1:0").expect("a port");
        let socket = Socket::new(socket).expect("a socket");
        let all = socket.max_transmit_segments();
        if cfg!(target_os = "linux") {
            assert!(all > 1, "Linux segments");
        }
        socket.io.writable().await.expect("it takes something");
        for retry_after in [1, 2, 4, 8, 16, 32, 64, 64].map(Duration::from_secs) {
            refused(&socket);
            assert_eq!(socket.max_transmit_segments(), 1);
            tokio::time::advance(retry_after - Duration::from_millis(1)).await;
            assert_eq!([(); 2].map(|()| socket.max_transmit_segments()), [1, 1]);
            tokio::time::advance(Duration::from_millis(1)).await;
            assert_eq!([(); 2].map(|()| socket.max_transmit_segments()), [1, all]);
        }
    }
}
