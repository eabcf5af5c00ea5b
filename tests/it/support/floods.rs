//! Floods of HTTP/2 frames that ask for nothing.

use super::frames::{self, Frame};

/// So many small frames at once, where megabytes of answers have to pile up before anything happens.
const MANY: usize = 100;

/// What a flood is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Requests that are taken back at once.
    Resets,
    /// A head that goes on and on.
    HeaderFrames,
    EmptyHeaderFrames,
    Settings,
    Pings,
    /// A body that goes on and on without a byte.
    EmptyData,
    WindowUpdates,
}

impl Kind {
    pub(crate) const ALL: [Self; 7] = [
        Self::Resets,
        Self::HeaderFrames,
        Self::EmptyHeaderFrames,
        Self::Settings,
        Self::Pings,
        Self::EmptyData,
        Self::WindowUpdates,
    ];
}

/// A flood on one connection.
pub(crate) struct Flood {
    kind: Kind,
    head: Vec<u8>,
}

impl Flood {
    pub(crate) fn new(kind: Kind) -> Self {
        let tag = "0".repeat(64);
        let mut head = frames::post("/hooks").to_vec();
        head.push(("x-cv-signature", &tag));
        let head = frames::block(&head);
        Self { kind, head }
    }

    /// What comes first.
    pub(crate) fn opening(&self) -> Option<Frame> {
        let flags = match self.kind {
            Kind::HeaderFrames | Kind::EmptyHeaderFrames => frames::END_STREAM,
            Kind::EmptyData => frames::END_HEADERS,
            Kind::Resets | Kind::Settings | Kind::Pings | Kind::WindowUpdates => return None,
        };
        Some(Frame::new(frames::HEADERS, flags, 1, &self.head))
    }

    /// What comes again and again.
    pub(crate) fn wave(&self, index: u32) -> Vec<Frame> {
        match self.kind {
            Kind::Resets => {
                let stream = index * 2 + 1;
                let (flags, head) = (frames::END_HEADERS, &self.head);
                vec![
                    Frame::new(frames::HEADERS, flags, stream, head),
                    // CANCEL
                    Frame::new(frames::RST_STREAM, 0, stream, &[0, 0, 0, 8]),
                ]
            }
            Kind::HeaderFrames => {
                let field = frames::block(&[(&format!("x-{index}"), &"x".repeat(8000))]);
                vec![Frame::new(frames::CONTINUATION, 0, 1, &field)]
            }
            Kind::EmptyHeaderFrames => vec![Frame::new(frames::CONTINUATION, 0, 1, &[])],
            Kind::Settings => {
                let window = [0, 4, 0, 0, 0xff, 0xff];
                vec![Frame::new(frames::SETTINGS, 0, 0, &window); MANY]
            }
            Kind::Pings => vec![Frame::new(frames::PING, 0, 0, &[7; 8]); MANY],
            Kind::EmptyData => vec![Frame::new(frames::DATA, 0, 1, &[])],
            Kind::WindowUpdates => vec![Frame::new(frames::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])],
        }
    }
}
