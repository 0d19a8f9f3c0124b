"""What can go wrong with people, contacts and blocks."""

from app.kernel.problems import Conflict, Invalid, NotFound, RateLimited


class UserNotFound(NotFound):
    code = "user_not_found"
    title = "There is no such user"


class ContactNotFound(NotFound):
    code = "contact_not_found"
    title = "This user is not in your contacts"


class BlockNotFound(NotFound):
    code = "block_not_found"
    title = "You have not blocked this user"


class UsernameTaken(Conflict):
    code = "username_taken"
    title = "The username is taken"


class TooManyContacts(Conflict):
    code = "too_many_contacts"
    title = "The address book is full"


class TooManyBlocked(Conflict):
    code = "too_many_blocked"
    title = "The list of blocked users is full"


class CannotBlockYourself(Invalid):
    code = "cannot_block_yourself"
    title = "You cannot block yourself"


class LookupsExhausted(RateLimited):
    code = "lookups_exhausted"
    title = "Too many different phone numbers looked up today"
