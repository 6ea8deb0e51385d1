//! Where words go: data on stdout, everything else on stderr. A reader that went away (a closed
//! pipe) ends the data quietly.

use std::io::{self, Write};

/// One line of data.
///
/// # Errors
/// When stdout cannot be written, other than because its reader closed it.
pub fn line(text: &str) -> io::Result<()> {
    bytes(format!("{text}\n").as_bytes())
}

/// Raw data.
///
/// # Errors
/// As for [`line()`].
pub fn bytes(data: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(data).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// A word to the person at the terminal.
pub fn note(text: &str) {
    // a closed stderr leaves nobody to tell
    let _ = writeln!(io::stderr().lock(), "{text}");
}
