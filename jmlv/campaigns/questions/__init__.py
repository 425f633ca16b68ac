"""Questions of a campaign: one kind a verb, and one for functions of one's own."""

from jmlv.campaigns.questions.attack import AttackQuestion
from jmlv.campaigns.questions.call import CallQuestion
from jmlv.campaigns.questions.grow import GrowQuestion
from jmlv.campaigns.questions.labels import LabelsQuestion
from jmlv.campaigns.questions.question import Question
from jmlv.campaigns.questions.smooth import SmoothQuestion
from jmlv.campaigns.questions.upper_bound import UpperBoundQuestion
from jmlv.campaigns.questions.verify import VerifyQuestion
