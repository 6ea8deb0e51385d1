//! [`Violation`]: why the bytes of a client are not read any further.

/// One reason; each has its own count in `weir_proxy_refused_requests_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Violation {
    /// Not `method SP target SP version`.
    RequestLine,
    /// A method that is not a token.
    Method,
    /// A byte or a form that a target cannot have.
    Target,
    /// Neither `HTTP/1.0` nor `HTTP/1.1`.
    Version,
    /// A line that ends without a carriage return.
    BareLineFeed,
    /// A line that goes on over the next one.
    ObsoleteFold,
    /// A name that is not a token, a space before its colon, or no colon at all.
    FieldName,
    /// A control byte in a value.
    FieldValue,
    /// Not one plain number.
    ContentLength,
    /// Anything but `chunked`, once, in HTTP/1.1.
    TransferEncoding,
    /// Both of them: the receivers on the way may choose differently.
    LengthAndEncoding,
    /// No host, several, one that cannot be, or one that contradicts `:authority`.
    Host,
    /// A size that is not plain hexadecimal, or data that does not end where it said.
    Chunk,
    /// A trailer that would change how the message is read.
    Trailer,
    /// A line longer than a head may be.
    TooLong,
    /// More HTTP/2 control frames than anybody needs.
    FrameFlood,
}

impl Violation {
    /// How many there are.
    pub(crate) const COUNT: usize = Self::ALL.len();

    /// All of them, in the order of their counts.
    pub(crate) const ALL: [Self; 16] = [
        Self::RequestLine,
        Self::Method,
        Self::Target,
        Self::Version,
        Self::BareLineFeed,
        Self::ObsoleteFold,
        Self::FieldName,
        Self::FieldValue,
        Self::ContentLength,
        Self::TransferEncoding,
        Self::LengthAndEncoding,
        Self::Host,
        Self::Chunk,
        Self::Trailer,
        Self::TooLong,
        Self::FrameFlood,
    ];

    /// As in the label `reason`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::RequestLine => "request_line",
            Self::Method => "method",
            Self::Target => "target",
            Self::Version => "version",
            Self::BareLineFeed => "bare_line_feed",
            Self::ObsoleteFold => "obsolete_fold",
            Self::FieldName => "field_name",
            Self::FieldValue => "field_value",
            Self::ContentLength => "content_length",
            Self::TransferEncoding => "transfer_encoding",
            Self::LengthAndEncoding => "length_and_encoding",
            Self::Host => "host",
            Self::Chunk => "chunk",
            Self::Trailer => "trailer",
            Self::TooLong => "too_long",
            Self::FrameFlood => "frame_flood",
        }
    }
}
